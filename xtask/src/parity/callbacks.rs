//! The order of callbacks.

use limpid_engine::callback::{Callback, Control, Hook, order as sort};
use limpid_engine::{Error, Result as Done, TrainState};

use super::fixture::{Fixture, Outcome, Worst};

/// A callback by its name and what it needs.
#[derive(serde::Deserialize)]
struct Named(String, Vec<String>);

impl Callback for Named {
    fn name(&self) -> &str {
        &self.0
    }

    fn dependencies(&self) -> Vec<&str> {
        self.1.iter().map(String::as_str).collect()
    }

    fn on(&mut self, _: Hook, _: &mut TrainState<'_>, _: &mut Control) -> Done<()> {
        Ok(())
    }
}

/// Callbacks, and their order or why there is none.
#[derive(serde::Deserialize)]
struct Case {
    r#in: Vec<Named>,
    order: Option<Vec<String>>,
    error: Option<String>,
}

/// `callbacks.json`: orders of callbacks, and lists that have none.
pub(super) fn order(fixture: &Fixture) -> Result<Outcome, String> {
    let cases: Vec<Case> = fixture.json("cases")?;
    let mut worst = Worst::default();
    for Case { r#in, order, error } in cases {
        let names: Vec<String> = r#in.iter().map(|named| named.0.clone()).collect();
        let mut callbacks: Vec<Box<dyn Callback>> =
            r#in.into_iter().map(|named| Box::new(named) as _).collect();
        let got = sort(&mut callbacks);
        let ordered: Vec<&str> = callbacks.iter().map(|c| c.name()).collect();
        let holds = match (&order, &error, &got) {
            (Some(order), _, Ok(())) => *order == ordered,
            // in words of our own, but about the same two
            (None, Some(error), Err(Error::UnknownDependency { name, dependency })) => {
                error.contains(name) && error.contains(dependency)
            }
            // what the reference orders all the same
            (None, None, Err(Error::DependencyCycle(_))) => true,
            _ => false,
        };
        worst.require(&format!("{}: {got:?}, {}", names.join(" "), ordered.join(" ")), holds);
    }
    Ok(Outcome::Compared(worst))
}
