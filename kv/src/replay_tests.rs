//! Checks that a client of the compatible API gets the content of the store by replaying the
//! listing. Tested with random commands, retention limits and snapshots.

#![allow(clippy::unwrap_used, reason = "a test ends where it cannot go on")]

use crate::base::Base;
use crate::command::{Change, Command, Compat, Condition, Kind, Operation, Version};
use crate::commits::Listing;
use crate::deletions::Deleted;
use crate::history::{Lookup, Retention};
use crate::snapshot;
use crate::state::State;
use crate::store::{Item, Place};
use bytes::Bytes;
use proptest::prelude::*;
use raft::{CommandNumber, Term};
use std::collections::BTreeMap;

type Texts = BTreeMap<String, String>;

/// How the client replays a `cas` of a key that it does not have.
#[derive(Clone, Copy, Debug)]
enum Missing {
    NeverMatches,
    IsTheEmptyString,
}

fn listing(state: &State, from: u64, limit: u64, part_bytes: usize) -> serde_json::Value {
    let mut listing = Listing::new(state.clone(), CommandNumber(from), limit);
    let mut text = Vec::new();
    while let Some(part) = listing.next_part(part_bytes) {
        text.extend(part);
    }
    serde_json::from_slice(&text).unwrap()
}

type Entries<T> = Vec<(Vec<u8>, T)>;

/// The base: its items and its deleted keys, ordered by key.
fn base_of(state: &State) -> (Entries<Item>, Entries<Deleted>) {
    let base = Base::of(state);
    let mut items: Entries<Item> =
        base.items().map(|(key, item)| (key.to_vec(), item.clone())).collect();
    let mut deleted: Entries<Deleted> =
        base.deleted().map(|(key, deleted)| (key.to_vec(), *deleted)).collect();
    assert_eq!((base.keys(), base.deleted_keys()), (items.len(), deleted.len()));
    items.sort_by(|(one, _), (other, _)| one.cmp(other));
    deleted.sort_by(|(one, _), (other, _)| one.cmp(other));
    (items, deleted)
}

fn replay(texts: &mut Texts, listing: &serde_json::Value, missing: Missing) {
    for commit in listing["commits"].as_array().unwrap() {
        let command = &commit["command"];
        let field = |name: &str| command[name].as_str().unwrap().to_owned();
        match command["kind"].as_str().unwrap() {
            "put" => drop(texts.insert(field("key"), field("value"))),
            "cas" => {
                let held = match missing {
                    Missing::NeverMatches => texts.get(&field("key")).cloned(),
                    Missing::IsTheEmptyString => {
                        Some(texts.get(&field("key")).cloned().unwrap_or_default())
                    }
                };
                if held == Some(field("compare_value")) {
                    texts.insert(field("key"), field("value"));
                }
            }
            "get" => {}
            other => panic!("unknown kind {other}"),
        }
    }
}

/// A replayed view agrees with the store. Deleted keys may be present with an empty value.
fn assert_agrees(texts: &Texts, state: &State) {
    let lossy = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    for (key, item) in state.store().items() {
        assert_eq!(texts.get(&lossy(key)), Some(&lossy(&item.value)));
    }
    for (key, value) in texts {
        assert!(state.store().item(key.as_bytes()).is_some() || value.is_empty());
    }
}

fn key() -> impl Strategy<Value = Bytes> {
    prop::sample::select(vec!["a", "b", "c", "d/e", "ü", ""]).prop_map(Bytes::from)
}

fn value() -> impl Strategy<Value = Bytes> {
    prop::sample::select(vec![&b""[..], b"1", b"2", b"\xff", "\u{fffd}".as_bytes(), b"\"\\\n\0"])
        .prop_map(Bytes::from)
}

fn condition() -> impl Strategy<Value = Condition> {
    prop_oneof![
        Just(Condition::Always),
        Just(Condition::Exists),
        Just(Condition::Absent),
        (1..40u64).prop_map(|v| Condition::Is(Version(v))),
        (1..40u64).prop_map(|v| Condition::IsNot(Version(v))),
    ]
}

fn operation() -> impl Strategy<Value = Operation> {
    let change = prop_oneof![2 => value().prop_map(Change::Put), 1 => Just(Change::Delete)];
    (key(), change, condition()).prop_map(|(key, change, condition)| Operation {
        key,
        change,
        condition,
    })
}

fn command() -> impl Strategy<Value = Option<Command>> {
    let kind = prop::sample::select(vec![Kind::Put, Kind::Get, Kind::Cas]);
    // The compatible API takes JSON, so its values are valid UTF-8.
    let text = || value().prop_map(|v| Bytes::from(String::from_utf8_lossy(&v).into_owned()));
    let compat = (kind, key(), text(), text(), any::<u64>()).prop_map(
        |(kind, key, value, compare_value, id)| {
            Command::Compat(Compat { kind, key, value, compare_value, id: id.into() })
        },
    );
    prop_oneof![
        1 => Just(None),
        8 => compat.prop_map(Some),
        8 => operation().prop_map(|operation| Some(Command::Write(operation))),
        4 => prop::collection::vec(operation(), 0..5).prop_map(|o| Some(Command::Batch(o))),
    ]
}

fn retention() -> impl Strategy<Value = Retention> {
    let bytes_max = prop_oneof![Just(300usize), Just(5000), Just(1 << 20)];
    let deleted_max = prop_oneof![2 => Just(1000usize), 1 => Just(1), 1 => Just(2)];
    (1..30usize, bytes_max, deleted_max).prop_map(|(commands_max, bytes_max, deleted_max)| {
        Retention { commands_max, bytes_max, deleted_max, ..Retention::default() }
    })
}

fn encoded(command: &Option<Command>) -> Option<Bytes> {
    command.as_ref().map(Command::encode)
}

fn place(number: u64) -> Place {
    Place { number: CommandNumber(number), term: Term(1 + number / 10) }
}

proptest! {
    #[test]
    fn a_replay_yields_the_store_whatever_has_fallen_out(
        commands in prop::collection::vec(command(), 0..60),
        retention in retention(),
        part_bytes in 1..400usize,
        since in 0..60u64,
    ) {
        // A client that resumes learns of a deletion only while it is remembered.
        let retention = Retention { deleted_max: 1000, ..retention };
        for missing in [Missing::NeverMatches, Missing::IsTheEmptyString] {
            let mut state = State::new(retention);
            let mut from_scratch = Texts::new();
            let mut resumed = Texts::new();
            for (number, command) in commands.iter().enumerate() {
                state.apply(place(number as u64), encoded(command));
                if number as u64 + 1 == since {
                    replay(&mut resumed, &listing(&state, 0, u64::MAX, part_bytes), missing);
                }
            }
            replay(&mut from_scratch, &listing(&state, 0, u64::MAX, part_bytes), missing);
            assert_agrees(&from_scratch, &state);
            // A client that replayed up to `since` earlier, and now lists the rest.
            if since <= commands.len() as u64 {
                replay(&mut resumed, &listing(&state, since, u64::MAX, part_bytes), missing);
                assert_agrees(&resumed, &state);
            }
        }
    }

    #[test]
    fn the_listing_is_ordered_counted_and_complete(
        commands in prop::collection::vec(command(), 0..60),
        retention in retention(),
        limit in 0..20u64,
    ) {
        let mut state = State::new(retention);
        for (number, command) in commands.iter().enumerate() {
            state.apply(place(number as u64), encoded(command));
        }
        let all = listing(&state, 0, u64::MAX, 64 << 10);
        let indices: Vec<u64> = all["commits"].as_array().unwrap().iter()
            .map(|commit| commit["index"].as_u64().unwrap()).collect();
        prop_assert_eq!(all["count"].as_u64().unwrap(), indices.len() as u64);
        prop_assert!(indices.is_sorted());
        for number in state.history().first().0..commands.len() as u64 {
            prop_assert!(indices.contains(&number), "retained command {} is missing", number);
        }
        // Below the retained commands, each key is listed once, as a put.
        let mut keys = std::collections::BTreeSet::new();
        for commit in all["commits"].as_array().unwrap() {
            if commit["index"].as_u64().unwrap() < state.history().first().0 {
                prop_assert!(keys.insert(commit["command"]["key"].to_string()));
                prop_assert_eq!(&commit["command"]["kind"], "put");
            }
        }
        // Listing in pages loses and repeats nothing.
        let mut paged = Vec::new();
        let mut from = 0;
        loop {
            if limit == 0 {
                break;
            }
            let page = listing(&state, from, limit, 100);
            let page = page["commits"].as_array().unwrap().clone();
            let Some(last) = page.last() else { break };
            from = last["index"].as_u64().unwrap() + 1;
            paged.extend(page);
        }
        if limit > 0 {
            prop_assert_eq!(&paged, all["commits"].as_array().unwrap());
        }
    }

    #[test]
    fn the_base_is_the_state_before_the_first_retained_command(
        commands in prop::collection::vec(command(), 0..60),
        retention in retention(),
    ) {
        // With enough retained commands, none of this one's are compacted.
        let unlimited = Retention { commands_max: 1000, ..retention };
        let unlimited = Retention { bytes_max: usize::MAX, ..unlimited };
        let mut state = State::new(retention);
        let mut states = vec![State::new(unlimited)];
        for (number, command) in commands.iter().enumerate() {
            state.apply(place(number as u64), encoded(command));
            let mut next = states[number].clone();
            next.apply(place(number as u64), encoded(command));
            states.push(next);
        }
        let before = &states[state.history().first().0 as usize];
        let (items, deleted) = base_of(&state);
        let expected: Vec<_> =
            before.store().items().iter().map(|(k, item)| (k.to_vec(), item.clone())).collect();
        prop_assert_eq!(items, expected);
        prop_assert_eq!(state.history().revision(), before.store().revision());
        // A key that was forgotten since is missing; any other deletion is as it was.
        let all = before.deletions().keys();
        prop_assert!(deleted.iter().all(|(key, at)| all.get(&key[..]) == Some(at)));
        if retention.deleted_max > 100 {
            prop_assert_eq!(deleted.len(), all.len());
        }
    }

    #[test]
    fn a_restored_snapshot_is_the_state_it_was_taken_of(
        commands in prop::collection::vec(command(), 0..60),
        taken in 0..60usize,
        retention in retention(),
    ) {
        let mut state = State::new(retention);
        let mut restored = None;
        for (number, command) in commands.iter().enumerate() {
            if number == taken {
                let mut bytes = Vec::new();
                snapshot::write(&state, &mut bytes).unwrap();
                restored = Some(snapshot::read(&mut &bytes[..], retention).unwrap());
            }
            let reply = state.apply(place(number as u64), encoded(command));
            if let Some(restored) = &mut restored {
                prop_assert_eq!(restored.apply(place(number as u64), encoded(command)), reply);
            }
        }
        if let Some(restored) = restored {
            prop_assert_eq!(restored.store(), state.store());
            prop_assert_eq!(restored.deletions(), state.deletions());
            prop_assert_eq!(base_of(&restored), base_of(&state));
            prop_assert_eq!(restored.history().revision(), state.history().revision());
            prop_assert_eq!(restored.history().first(), state.history().first());
            prop_assert_eq!(restored.history().bytes(), state.history().bytes());
            prop_assert_eq!(
                listing(&restored, 0, u64::MAX, 1000), listing(&state, 0, u64::MAX, 1000)
            );
            for number in 0..=commands.len() as u64 {
                let number = CommandNumber(number);
                prop_assert_eq!(
                    restored.history().lookup(number), state.history().lookup(number)
                );
            }
        }
    }
}

#[test]
fn a_damaged_snapshot_is_refused_as_a_whole() {
    let mut state = State::new(Retention { commands_max: 2, ..Retention::default() });
    for number in 0..5 {
        let operation = Operation {
            key: format!("k{number}").into(),
            change: Change::Put("v".into()),
            condition: Condition::Always,
        };
        state.apply(place(number), encoded(&Some(Command::Write(operation))));
    }
    let mut bytes = Vec::new();
    snapshot::write(&state, &mut bytes).unwrap();
    assert!(snapshot::read(&mut &bytes[..], Retention::default()).is_ok());
    for len in 0..bytes.len() {
        assert!(snapshot::read(&mut &bytes[..len], Retention::default()).is_err(), "cut at {len}");
    }
    bytes.push(0);
    assert!(snapshot::read(&mut &bytes[..], Retention::default()).is_err());
}

#[test]
fn of_too_many_deleted_keys_the_oldest_are_forgotten() {
    let retention = Retention { commands_max: 1, deleted_max: 2, ..Retention::default() };
    let mut state = State::new(retention);
    let mut number = 0;
    for key in ["a", "b", "c"] {
        for change in [Change::Put("v".into()), Change::Delete] {
            let operation = Operation { key: key.into(), change, condition: Condition::Always };
            state.apply(place(number), encoded(&Some(Command::Write(operation))));
            number += 1;
        }
    }
    state.apply(place(number), None);
    let all = listing(&state, 0, u64::MAX, 1000);
    let keys: Vec<_> = all["commits"]
        .as_array()
        .unwrap()
        .iter()
        .map(|commit| {
            (commit["index"].as_u64().unwrap(), commit["command"]["key"].as_str().unwrap())
        })
        .collect();
    assert_eq!(keys, [(3, "b"), (5, "c"), (6, "")]);
    assert!(matches!(
        state.history().lookup(CommandNumber(5)),
        Lookup::Compacted { first: CommandNumber(6) }
    ));
}
