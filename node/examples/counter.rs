//! A counter in three copies: `counter 1`, `counter 2` and `counter 3`, each in a terminal of its
//! own.

use quorate::{ApplyContext, Consistency, LogTime, TypedMachine, TypedNode};
use serde::{Deserialize, Serialize};
use std::{error::Error, io::stdin};

#[derive(Clone, Default, Serialize, Deserialize)]
struct Counter(i64);

impl TypedMachine for Counter {
    type Command = i64;
    type Reply = i64;
    type Query = ();
    type Answer = i64;

    fn apply(&mut self, _at: ApplyContext, add: i64) -> i64 {
        self.0 += add;
        self.0
    }

    fn query(&self, _time: LogTime, (): ()) -> i64 {
        self.0
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let id: u64 = std::env::args().nth(1).ok_or("which node? 1, 2 or 3")?.parse()?;
    let members = [(1, "127.0.0.1:9001"), (2, "127.0.0.1:9002"), (3, "127.0.0.1:9003")];
    let builder = TypedNode::builder(Counter::default()).id(id).members(members);
    let node = builder.data_dir(format!("counter-{id}")).bootstrap().start_typed().await?;
    println!("it is {}; enter a number to add", node.read(&(), Consistency::Linearizable).await?);
    for line in stdin().lines() {
        match node.execute(&line?.trim().parse()?).await {
            Ok(sum) => println!("now it is {sum}"),
            Err(error) => println!("{error}; the leader: {:?}", node.leader()),
        }
    }
    Ok(())
}
