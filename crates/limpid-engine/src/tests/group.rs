//! Several trainings that go in step.

use super::{BATCHES, Record, Toy, Twin, config};
use crate::*;
use candle_core::Tensor;
use std::sync::{Arc, Barrier, Mutex};

/// Threads of one process, which put their tensors where all of them see these.
struct Threads {
    own: usize,
    all: Arc<Mutex<Vec<Vec<Tensor>>>>,
    barrier: Arc<Barrier>,
}

impl Threads {
    fn group(members: usize) -> Vec<Self> {
        let all = Arc::new(Mutex::new(vec![Vec::new(); members]));
        let barrier = Arc::new(Barrier::new(members));
        (0..members).map(|own| Self { own, all: all.clone(), barrier: barrier.clone() }).collect()
    }
}

impl Communicator for Threads {
    fn mean(&self, tensors: &mut [&mut Tensor]) -> Result<()> {
        self.all.lock().unwrap()[self.own] = tensors.iter().map(|t| t.detach()).collect();
        self.barrier.wait();
        let all = self.all.lock().unwrap().clone();
        self.barrier.wait();
        for (i, tensor) in tensors.iter_mut().enumerate() {
            let of_members = all.iter().map(|member| member[i].clone()).collect::<Vec<_>>();
            **tensor = Tensor::stack(&of_members, 0)?.mean(0)?;
        }
        Ok(())
    }
}

/// One of the two samples of every batch.
struct Half(Toy, usize);

impl Loader for Half {
    fn batches(&self) -> u64 {
        BATCHES
    }

    fn epoch(&self, epoch: u64, first: u64) -> Batches<'_> {
        Box::new(self.0.epoch(epoch, first).map(|batch| {
            let Batch { mut tensors, ids } = batch?;
            for tensor in tensors.values_mut() {
                *tensor = tensor.narrow(0, self.1, 1)?;
            }
            Ok(Batch { tensors, ids: vec![ids[self.1].clone()] })
        }))
    }
}

impl DataModule for Half {
    fn train(&self) -> std::result::Result<Box<dyn Loader + '_>, BoxError> {
        Ok(Box::new(Self(Toy::new(), self.1)))
    }

    fn validation(&self) -> std::result::Result<Vec<(String, Box<dyn Loader + '_>)>, BoxError> {
        self.0.validation()
    }

    fn fingerprint(&self) -> String {
        "half".into()
    }
}

fn halves() -> Vec<(Result<Outcome>, Vec<f32>)> {
    std::thread::scope(|scope| {
        let members = Threads::group(2).into_iter().enumerate().map(|(half, communicator)| {
            scope.spawn(move || {
                let root = tempfile::tempdir().unwrap();
                let mut run = RunDir::open_or_create(root.path(), "toy", "digest", false).unwrap();
                let mut trainer = Trainer::new(config(9), 9);
                trainer.communicator = Some(Arc::new(communicator));
                let data = Half(Toy::new(), half);
                let mut model = Twin::new();
                let outcome = trainer.fit(&mut model, &data, &mut run, &mut Record::default());
                let both = [&model.a, &model.b].map(|p| p.tensor().to_vec1::<f32>().unwrap());
                (outcome, both.concat())
            })
        });
        let members: Vec<_> = members.collect();
        members.into_iter().map(|member| member.join().unwrap()).collect()
    })
}

#[test]
fn a_group_makes_the_steps_of_one_training() {
    let root = tempfile::tempdir().unwrap();
    let whole = super::train(root.path(), config(9), &Toy::new());
    whole.result.unwrap();
    let whole = [&whole.model.a, &whole.model.b].map(|p| p.tensor().to_vec1::<f32>().unwrap());
    let members = halves();
    assert_eq!(members[0].1, members[1].1);
    for (outcome, weights) in members {
        assert_eq!(outcome.unwrap(), Outcome::Finished);
        for (a, b) in weights.iter().zip(whole.concat()) {
            assert!((a - b).abs() < 1e-5, "{a} for {b}");
        }
    }
}
