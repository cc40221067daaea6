//! Interrupted, killed and damaged runs.

use super::*;
use std::path::PathBuf;

/// The newest checkpoint: checksums of all of its files, and the part that is not tensors.
fn last(root: &Path) -> (String, String) {
    let path = list(root).pop().unwrap().path;
    let read = |name| std::fs::read_to_string(path.join(name)).unwrap();
    (read("SHA256"), read("state.json"))
}

fn damage(checkpoint: &CheckpointInfo) {
    let file = checkpoint.path.join("weights.safetensors");
    let mut bytes = std::fs::read(&file).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    std::fs::write(&file, bytes).unwrap();
}

/// Copies the run directory whenever a checkpoint was written: what a kill at that moment leaves.
struct Kill {
    run: PathBuf,
    to: Option<PathBuf>,
    moments: u64,
}

impl Callback for Kill {
    fn name(&self) -> &str {
        "kill"
    }
    fn on(&mut self, hook: Hook, _: &mut TrainState<'_>, _: &mut Control) -> Result<()> {
        if hook == Hook::CheckpointSaved
            && let Some(to) = &self.to
        {
            copy(&self.run, &to.join(self.moments.to_string()).join("toy-0001"));
            self.moments += 1;
        }
        Ok(())
    }
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let target = to.join(path.file_name().unwrap());
        if path.is_dir() {
            copy(&path, &target);
        } else {
            std::fs::copy(&path, &target).unwrap();
        }
    }
}

/// Trains once without a break, and goes on from every state in which a kill may leave that run:
/// all must end alike. Gives the number of steps.
fn killed_anywhere_ends_alike(config: &TrainConfig, data: &Toy) -> u64 {
    let (whole, kills) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (run, to) = (whole.path().join("toy-0001"), Some(kills.path().to_owned()));
    let kill = Box::new(Kill { run, to, moments: 0 });
    let trained = train_model(Twin::new(), whole.path(), config.clone(), data, Some(kill));
    assert_eq!(trained.result.unwrap(), Outcome::Finished);
    let best = |root: &Path| RunDir::open(&root.join("toy-0001")).unwrap().status().best.clone();
    let moments = std::fs::read_dir(kills.path()).unwrap().count();
    assert!(moments >= 3);
    for moment in 0..moments {
        let root = kills.path().join(moment.to_string());
        // half of the next checkpoint was there too
        let partial = root.join("toy-0001/checkpoints/.partial-000000099");
        std::fs::create_dir(&partial).unwrap();
        let idle = Box::new(Kill { run: root.join("toy-0001"), to: None, moments: 0 });
        let again = train_model(Twin::new(), &root, config.clone(), data, Some(idle));
        assert_eq!(again.result.unwrap(), Outcome::Finished);
        assert_eq!(last(&root), last(whole.path()), "{moment}");
        assert_eq!(best(&root), best(whole.path()), "{moment}");
        assert!(!partial.exists());
    }
    list(whole.path()).pop().unwrap().step
}

#[test]
fn an_interrupted_run_ends_with_the_same_bytes() {
    let whole = tempfile::tempdir().unwrap();
    assert_eq!(train(whole.path(), config(11), &Toy::new()).result.unwrap(), Outcome::Finished);
    for at in [(0, 1), (0, 6), (1, 0), (1, 5), (2, 3)] {
        let parts = tempfile::tempdir().unwrap();
        let mut data = Toy::new();
        data.stop_at = Some(at);
        let first = train(parts.path(), config(11), &data).result.unwrap();
        assert_eq!(first, Outcome::Interrupted, "{at:?}");
        let second = train(parts.path(), config(11), &Toy::new());
        assert_eq!(second.result.unwrap(), Outcome::Finished);
        assert_eq!(last(whole.path()), last(parts.path()), "{at:?}");
    }
}

#[test]
fn a_killed_run_goes_on_from_its_last_checkpoint() {
    // a validation at 4, 8 and after the last checkpoint by steps, which it must bring up to date
    assert_eq!(killed_anywhere_ends_alike(&config(9), &Toy::new()), 9);
}

#[test]
fn a_killed_run_leaves_out_and_goes_back_alike() {
    for bad in [(0, 1), (0, 5), (1, 2)] {
        let data = Toy { bad: Some(bad), ..Toy::new() };
        for policy in [NonFinite::Skip, NonFinite::Rollback] {
            let config = TrainConfig { nonfinite: policy, accumulate: 1, ..config(10) };
            assert_eq!(killed_anywhere_ends_alike(&config, &data), 10);
        }
    }
}

#[test]
fn rollback_does_not_depend_on_when_the_run_was_interrupted() {
    let config = TrainConfig { nonfinite: NonFinite::Rollback, accumulate: 1, ..config(12) };
    for bad in [(0, 2), (1, 1)] {
        let whole = tempfile::tempdir().unwrap();
        let data = Toy { bad: Some(bad), ..Toy::new() };
        train(whole.path(), config.clone(), &data).result.unwrap();
        let parts = tempfile::tempdir().unwrap();
        // the checkpoint right before the bad batch is not one to go back to
        let stopped =
            Toy { stop_at: Some((bad.0, bad.1 - 1)), ..Toy { bad: Some(bad), ..Toy::new() } };
        let first = train(parts.path(), config.clone(), &stopped);
        assert_eq!(first.result.unwrap(), Outcome::Interrupted);
        assert_eq!(train(parts.path(), config.clone(), &data).result.unwrap(), Outcome::Finished);
        assert_eq!(last(whole.path()), last(parts.path()), "{bad:?}");
    }
}

#[test]
fn an_early_stop_outlives_a_kill() {
    let mut config = TrainConfig {
        validate_every: 2,
        early_stop: Some(EarlyStopConfig { patience: 2, min_delta: 1e9 }),
        ..config(40)
    };
    config.checkpoint.every_steps = 2;
    assert_eq!(killed_anywhere_ends_alike(&config, &Toy::new()), 6);
}

#[test]
fn a_score_that_is_not_finite_is_never_the_best_and_the_run_stays_readable() {
    for score in [f64::NAN, f64::NEG_INFINITY] {
        let root = tempfile::tempdir().unwrap();
        let odd = || Twin { score: Some(score), ..Twin::new() };
        let data = Toy { stop_at: Some((1, 3)), ..Toy::new() };
        let first = train_model(odd(), root.path(), config(8), &data, None);
        assert_eq!(first.result.unwrap(), Outcome::Interrupted);
        let second = train_model(odd(), root.path(), config(8), &Toy::new(), None);
        assert_eq!(second.result.unwrap(), Outcome::Finished);
        assert!(second.record.warnings()[0].contains("never the best"));
        let started = |e: &Event| matches!(e, Event::Started { step: 6, .. });
        assert!(second.record.0.iter().any(started), "gone on from its checkpoint");
        let run = RunDir::open(&root.path().join("toy-0001")).unwrap();
        assert_eq!(run.status().best, None);
    }
}

#[test]
fn a_damaged_checkpoint_is_detected_and_the_one_before_it_used() {
    let whole = tempfile::tempdir().unwrap();
    train(whole.path(), config(11), &Toy::new()).result.unwrap();
    let root = tempfile::tempdir().unwrap();
    let data = Toy { stop_at: Some((1, 5)), ..Toy::new() };
    train(root.path(), config(11), &data).result.unwrap();
    let list = list(root.path());
    assert!(list.len() >= 2);
    damage(&list[list.len() - 1]);
    let again = train(root.path(), config(11), &Toy::new());
    assert!(
        again.record.warnings()[0].contains("`weights.safetensors` does not have its checksum")
    );
    assert_eq!(again.result.unwrap(), Outcome::Finished);
    assert_eq!(last(whole.path()), last(root.path()));
}

#[test]
fn damaged_checkpoints_do_not_push_out_good_ones() {
    let root = tempfile::tempdir().unwrap();
    let mut config = config(11);
    config.checkpoint.keep_last = 3;
    train(root.path(), config.clone(), &Toy::new()).result.unwrap();
    let mut run = RunDir::open(&root.path().join("toy-0001")).unwrap();
    run.update(|s| s.status = "running".into()).unwrap();
    drop(run);
    let before = list(root.path());
    before[1..].iter().for_each(damage);
    config.checkpoint.keep_last = 2;
    let data = Toy { stop_at: Some((1, 6)), ..Toy::new() };
    train(root.path(), config, &data).result.unwrap();
    let after = list(root.path());
    assert!(after.len() >= 2 && after.iter().all(|c| Checkpoints::weights(&c.path).is_ok()));
    assert!(after[after.len() - 1].step > before[0].step);
}

#[test]
fn a_checkpoint_about_to_be_replaced_is_found_again() {
    let root = tempfile::tempdir().unwrap();
    let data = Toy { stop_at: Some((1, 5)), ..Toy::new() };
    train(root.path(), config(11), &data).result.unwrap();
    let newest = list(root.path()).pop().unwrap();
    let aside = newest.path.with_file_name(format!(".replaced-{:09}", newest.step));
    std::fs::rename(&newest.path, &aside).unwrap();
    let trained = train(root.path(), config(11), &Toy::new());
    assert!(matches!(trained.record.0[0], Event::Started { step, .. } if step == newest.step));
    assert!(!aside.exists());
}

#[test]
fn another_configuration_or_other_data_are_refused() {
    let root = tempfile::tempdir().unwrap();
    train(root.path(), config(3), &Toy::new()).result.unwrap();
    let mut run = RunDir::open(&root.path().join("toy-0001")).unwrap();
    run.update(|s| s.config = "other".into()).unwrap();
    let mut trainer = Trainer::new(config(5), 9);
    let error = trainer.fit(&mut Twin::new(), &Toy::new(), &mut run, &mut Silent).unwrap_err();
    assert!(error.to_string().contains("made with another configuration"), "{error}");
    assert_eq!(run.status().status, "failed");
    trainer.allow_changed = true;
    trainer.fit(&mut Twin::new(), &Toy::new(), &mut run, &mut Silent).unwrap();
}

#[test]
fn averages_switched_on_later_begin_with_the_restored_weights() {
    let root = tempfile::tempdir().unwrap();
    let data = Toy { stop_at: Some((0, 5)), ..Toy::new() };
    let plain = TrainConfig { ema: None, ..config(11) };
    train(root.path(), plain, &data).result.unwrap();
    let restored = Checkpoints::weights(&list(root.path()).pop().unwrap().path).unwrap();
    let mut run = RunDir::open(&root.path().join("toy-0001")).unwrap();
    let mut trainer = Trainer::new(config(3), 9);
    trainer.allow_changed = true;
    trainer.fit(&mut Twin::new(), &Toy::new(), &mut run, &mut Silent).unwrap();
    let averaged = Checkpoints::weights(&list(root.path()).pop().unwrap().path).unwrap();
    for (name, want) in restored {
        let want = want.to_vec1::<f32>().unwrap();
        assert_eq!(averaged[&name].to_vec1::<f32>().unwrap(), want, "{name}");
    }
}
