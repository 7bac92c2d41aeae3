//! Faults of the plan: how they strike and are lifted.

use super::*;
use crate::faults::{self, Drive, Faulty, ROT_WRITES, Struck};

/// Size of the block that a misdirected write puts in the wrong place.
const BLOCK_BYTES: u64 = 4_096;

impl Faulty for World<'_> {
    fn now_us(&self) -> u64 {
        self.now_us
    }

    fn network(&mut self) -> &mut Network {
        &mut self.network
    }

    fn drive(&mut self, node: usize) -> Drive<'_> {
        let Host { disk, failing, full, stalled_until_us, slow_until_us, .. } =
            &mut self.hosts[node];
        Drive { disk, failing, full, stalled_until_us, slow_until_us }
    }

    fn armed(&mut self) -> &mut BTreeMap<(usize, FaultKind), u64> {
        &mut self.armed
    }

    fn done_bytes(&mut self, node: usize) -> usize {
        self.disks[node].below(4_096) as usize
    }
}

impl World<'_> {
    pub(super) fn strike(&mut self, at: usize) -> Result<(), Violation> {
        if self.calm {
            return Ok(());
        }
        let leader = self.leader().map(|node| node as u64);
        let fault = self.plan.faults[at].resolved(leader);
        let node = (fault.node % self.plan.nodes) as usize;
        if self.hosts[node].store.is_some() && fault.kind.damages_files() {
            return Ok(());
        }
        self.note(8, node, fault.kind as u64);
        self.marks.hit("a fault struck");
        self.timeline.add(node, What::Fault(fault));
        match faults::strike(self, node, &fault) {
            Struck::Done => Ok(()),
            Struck::Lasts => {
                self.struck.insert(at, fault);
                self.queue.push(self.now_us + fault.amount, Event::Lift(at));
                Ok(())
            }
            Struck::NotYet => self.strike_here(node, fault),
        }
    }

    fn strike_here(&mut self, node: usize, fault: Fault) -> Result<(), Violation> {
        match fault.kind {
            FaultKind::Crash => self.crash(node, fault.amount),
            FaultKind::Kill => {
                self.cut_off(node);
                self.process_ends(node, fault.amount);
            }
            FaultKind::Stop => self.stops(node, fault.amount)?,
            FaultKind::Pause => {
                let host = &mut self.hosts[node];
                host.paused_until_us = host.paused_until_us.max(self.now_us + fault.amount);
            }
            FaultKind::WallJump => {
                self.pass_time();
                let sign = if fault.amount % 2 == 1 { -1 } else { 1 };
                self.hosts[node].wall_offset_ms += sign * fault.amount as i64;
            }
            FaultKind::Clock => {
                let per_mille = self.plan.swarm.clock_rate(fault.amount);
                self.hosts[node].set_clock_rate(self.now_us, per_mille);
            }
            FaultKind::ClockBack => {
                let to_us = self.hosts[node].monotonic_us(self.now_us);
                self.queue.push(self.now_us + fault.amount, Event::ClockBack { node, to_us });
            }
            FaultKind::CrashAt => {
                let done_bytes = self.disks[node].below(16_384) as usize;
                self.hosts[node].darken_at(fault.amount % 32, done_bytes);
            }
            FaultKind::Rot | FaultKind::Misdirect | FaultKind::Unreadable => {
                self.rot(node, fault);
            }
            FaultKind::RotEnd => {
                if self.hosts[node].is_whole() && self.hosts[node].up.is_some() {
                    self.stops(node, fault.amount)?;
                    self.rot_end(node);
                }
            }
            FaultKind::LostWrite => {
                let host = &mut self.hosts[node];
                if host.up.is_some() && host.is_whole() {
                    host.losing = Some(Losing { down_us: fault.amount, files: segments(host) });
                }
            }
            FaultKind::RotWriting => {
                let host = &mut self.hosts[node];
                if host.up.is_some() && host.is_whole() {
                    host.rotting_end = Some(RottingEnd { down_us: fault.amount, batch: None });
                }
            }
            FaultKind::SnapshotRot => self.rot_snapshot(node, fault.amount),
            FaultKind::Flip => self.hosts[node].flips = true,
            FaultKind::Wipe => self.wipe(node, fault.amount),
            FaultKind::Transfer => {
                let (now, to) = (self.now(node), fault.amount % self.plan.nodes);
                let to = (to != node as u64).then_some(NodeId(to));
                if let Some(running) = &mut self.hosts[node].up
                    && running.node.transfer(now, to).is_ok()
                {
                    self.marks.hit("a leader handed over");
                    return self.poll(node);
                }
            }
            FaultKind::Members => match self.hosts[node].up.is_some() {
                true if self.leader() == Some(node) => self.declare(node, fault.amount)?,
                _ => self.operator.declares = Some(fault.amount),
            },
            FaultKind::Replace => {
                self.operator.replaces.insert(node);
            }
            FaultKind::CrashWriting
            | FaultKind::CrashSending
            | FaultKind::Isolate
            | FaultKind::Deaf
            | FaultKind::Mute
            | FaultKind::Split
            | FaultKind::Bridge
            | FaultKind::Ring
            | FaultKind::Clog
            | FaultKind::SyncError
            | FaultKind::IoError
            | FaultKind::Full
            | FaultKind::Stall
            | FaultKind::Slow => unreachable!("`faults::strike` does these"),
        }
        Ok(())
    }

    /// The leader, of the latest term if there are several.
    pub(super) fn leader(&self) -> Option<usize> {
        let leaders = self.hosts.iter().enumerate().filter_map(|(id, host)| {
            let node = &host.up.as_ref()?.node;
            node.is_leader().then(|| (node.term(), id))
        });
        leaders.max().map(|(_, id)| id)
    }

    pub(super) fn lift(&mut self, fault: usize) {
        let Some(fault) = self.struck.remove(&fault) else { return };
        if self.calm {
            return;
        }
        self.timeline.add_to_all(What::Lifted(fault));
        let node = (fault.node % self.plan.nodes) as usize;
        faults::lift(self, node, &fault);
    }

    /// Plans damage to a part of the log as it is now. It takes effect at a later power failure.
    pub(super) fn rot(&mut self, node: usize, fault: Fault) {
        let host = &mut self.hosts[node];
        if host.up.is_none() || !host.is_whole() {
            return;
        }
        let draw = &mut self.disks[node];
        let paths: Vec<String> =
            host.disk.paths().into_iter().filter(|path| path.starts_with("log/")).collect();
        if paths.is_empty() {
            return;
        }
        let path = paths[draw.below(paths.len() as u64) as usize].clone();
        let Some(content) = host.disk.read(&path) else { return };
        // Only the written part: damage to the zeros beyond it has no effect.
        let written = content.iter().rposition(|byte| *byte != 0).unwrap_or(0) as u64 + 1;
        let at_write = host.writes + ROT_WRITES;
        let found = content[..written as usize].to_vec();
        let offset = draw.below(written);
        let (mut damage, mut unreadable) = (Vec::new(), None);
        match fault.kind {
            FaultKind::Misdirect => {
                let block = |at: u64| at / BLOCK_BYTES * BLOCK_BYTES;
                let (meant, hit) = (block(offset), block(draw.below(written)));
                if meant == hit {
                    return;
                }
                let bytes = &content[meant as usize..];
                let bytes = &bytes[..bytes.len().min(BLOCK_BYTES as usize)];
                damage = vec![(hit, bytes.to_vec()), (meant, vec![0; bytes.len()])];
            }
            FaultKind::Unreadable => unreadable = Some(offset),
            _ => damage = vec![(offset, vec![content[offset as usize] ^ 1 << draw.below(8)])],
        }
        let down_us = fault.amount;
        let mark = match fault.kind {
            FaultKind::Misdirect => "a write went to the wrong place",
            FaultKind::Unreadable => "a sector became unreadable",
            _ => "a log rotted",
        };
        host.rotting = Some(Rotting { at_write, down_us, path, damage, unreadable, found, mark });
    }

    /// Damages a byte at the end of the log of a node that was shut down cleanly.
    fn rot_end(&mut self, node: usize) {
        let host = &mut self.hosts[node];
        let draw = &mut self.disks[node];
        // A node that could not complete its write or close its log has promised nothing.
        if !host.closed {
            return;
        }
        // The last file with any data; the names are in the order of the log.
        let written = segments(host).into_iter().rev().find_map(|(path, content)| {
            Some((path, content.iter().rposition(|byte| *byte != 0)? as u64, content))
        });
        let Some((path, last, content)) = written else { return };
        let offset = last - draw.below(last.min(2 * BLOCK_BYTES) + 1);
        let byte = content[offset as usize] ^ 1 << draw.below(8);
        // A recycled file has old data that is never read.
        if host.is_whole_with(&self.plan.swarm, |disk| disk.damage(&path, offset, &[byte])) {
            return;
        }
        host.disk.damage(&path, offset, &[byte]);
        (host.rotten, host.damaged) = (true, true);
        self.marks.hit("the end of a log rotted");
    }

    /// If a lost write is due, plans the loss of the write that has just become durable.
    pub(super) fn loses_write(&mut self, node: usize) {
        let host = &mut self.hosts[node];
        let Some(Losing { down_us, files }) = host.losing.take() else { return };
        let files_now = segments(host);
        // A recycled file has a new name.
        let gone = |len: usize| {
            let gone = files.iter().filter(|(path, _)| !files_now.contains_key(*path));
            gone.map(|(_, content)| content).find(|content| content.len() == len)
        };
        for (path, now) in &files_now {
            let before = files.get(path).or_else(|| gone(now.len())).map_or(&[][..], Vec::as_slice);
            let block = |at: usize, content: &[u8]| -> Vec<u8> {
                let mut block: Vec<u8> =
                    content.iter().copied().skip(at).take(BLOCK_BYTES as usize).collect();
                block.resize(BLOCK_BYTES as usize, 0);
                block
            };
            let damage: Vec<(u64, Vec<u8>)> = (0..now.len())
                .step_by(BLOCK_BYTES as usize)
                .map(|at| (at, block(at, before), block(at, now)))
                .filter(|(_, before, now)| before != now)
                .map(|(at, before, _)| (at as u64, before))
                .collect();
            let Some((last, _)) = damage.last() else { continue };
            let found = now[..(*last + BLOCK_BYTES).min(now.len() as u64) as usize].to_vec();
            host.rotting = Some(Rotting {
                at_write: host.writes + ROT_WRITES,
                down_us,
                path: path.clone(),
                damage,
                unreadable: None,
                found,
                mark: "a write was lost",
            });
            return;
        }
    }

    /// Damages a byte of a snapshot. A node that needs the snapshot notices, now or when it starts.
    fn rot_snapshot(&mut self, node: usize, amount: u64) {
        let host = &mut self.hosts[node];
        let draw = &mut self.disks[node];
        let all = host.disk.paths();
        let paths: Vec<&String> = all.iter().filter(|path| path.ends_with(".snap")).collect();
        if paths.is_empty() {
            return;
        }
        let path = paths[draw.below(paths.len() as u64) as usize];
        let content = host.disk.read(path).unwrap_or_default();
        let Some(last) = content.len().checked_sub(1) else { return };
        let offset = draw.below(last as u64 + 1);
        let byte = content[offset as usize] ^ 1 << draw.below(8);
        host.disk.damage(path, offset, &[byte]);
        host.snapshot_rotten = true;
        self.marks.hit("a snapshot rotted");
        if amount % 2 == 1 {
            self.crash(node, amount);
        }
    }

    pub(super) fn rots(&mut self, node: usize) {
        let host = &mut self.hosts[node];
        if host.rotting.as_ref().is_none_or(|rotting| host.writes < rotting.at_write) {
            return;
        }
        let Some(rotting) = host.rotting.take() else { return };
        self.crash(node, rotting.down_us);
        let host = &mut self.hosts[node];
        // The file may have been freed or recycled meanwhile.
        let content = host.disk.read(&rotting.path).unwrap_or_default();
        if content.starts_with(&rotting.found) {
            for (offset, bytes) in &rotting.damage {
                host.disk.damage(&rotting.path, *offset, bytes);
            }
            host.unreadable = rotting.unreadable.map(|offset| (rotting.path, offset));
            host.rotten = true;
            host.damaged = true;
            self.marks.hit(rotting.mark);
        }
    }

    /// Replaces the disk by an empty one. The node comes back under its id, with a new incarnation
    /// and no membership.
    pub(super) fn wipe(&mut self, node: usize, down_us: u64) {
        if self.hosts[node].up.is_some() {
            self.crash(node, down_us);
        }
        let host = &mut self.hosts[node];
        let (life, open) = (host.life, host.store.as_ref().map(|store| store.open.clone()));
        let incarnation = Incarnation(host.incarnation.0 + 1_000);
        *host = Host::new(node as u64, &self.plan.swarm, incarnation, Membership::default(), open);
        host.life = life + 1;
        // If an operator replaces it, it has promised nothing once it is a member again.
        host.rotten = !self.operator.is_there;
        host.waits = self.operator.is_there;
        self.leases.wiped(node);
        self.marks.hit("a disk was wiped");
    }

    /// Founds a node whose disk was wiped with this membership, in which it is.
    pub(super) fn found(&mut self, node: usize, membership: Membership) {
        if self.hosts[node].up.is_some() {
            self.crash(node, 1);
        }
        let host = &mut self.hosts[node];
        let (life, open) = (host.life, host.store.as_ref().map(|store| store.open.clone()));
        let id = NodeId(node as u64);
        let own = membership.members.get(&id).map(|member| member.incarnation);
        let incarnation = own.unwrap_or(host.incarnation);
        if incarnation != host.incarnation {
            // A promise of the earlier directory binds no other node.
            self.leases.wiped(node);
        }
        *host = Host::new(node as u64, &self.plan.swarm, incarnation, membership, open);
        host.life = life + 1;
        // A node that was dead has no start ahead.
        self.queue.push(self.now_us + 1, Event::Start(node));
    }
}

/// The files of a node's log.
pub(super) fn segments<M>(host: &Host<M>) -> BTreeMap<String, Vec<u8>> {
    let paths = host.disk.paths().into_iter().filter(|path| path.starts_with("log/"));
    paths.filter_map(|path| Some((path.clone(), host.disk.read(&path)?))).collect()
}
