//! A lock service in three copies: `locks 1`, `locks 2` and `locks 3`, each in a terminal of its
//! own.
//!
//! A lock is granted for a time, and with a fencing token: a number that grows with every grant.
//! The holder sends its token with every request to the protected resource. The resource rejects a
//! token that is lower than one it has seen. So a holder that has paused for too long does no harm,
//! though it does not know that its time is over.

mod machine;

use machine::{Command, Locks};
use quorate::{Consistency, TypedNode};
use std::error::Error;
use std::io::stdin;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let id: u64 = std::env::args().nth(1).ok_or("which node? 1, 2 or 3")?.parse()?;
    let members = [(1, "127.0.0.1:9101"), (2, "127.0.0.1:9102"), (3, "127.0.0.1:9103")];
    let builder = TypedNode::builder(Locks::default()).id(id).members(members);
    let node = builder.data_dir(format!("locks-{id}")).bootstrap().start_typed().await?;
    println!("acquire LOCK OWNER SECONDS | release LOCK TOKEN | show LOCK");
    for line in stdin().lines() {
        let line = line?;
        let words: Vec<&str> = line.split_whitespace().collect();
        let command = match words[..] {
            ["acquire", lock, owner, seconds] => Command::Acquire {
                lock: lock.to_owned(),
                owner: owner.to_owned(),
                for_ms: seconds.parse::<u64>()?.saturating_mul(1000),
            },
            ["release", lock, token] => {
                Command::Release { lock: lock.to_owned(), token: token.parse()? }
            }
            ["show", lock] => {
                let grant = node.read(&lock.to_owned(), Consistency::Linearizable).await?;
                println!("{grant:?}");
                continue;
            }
            _ => {
                println!("not understood");
                continue;
            }
        };
        println!("{:?}", node.execute(&command).await?);
    }
    Ok(())
}
