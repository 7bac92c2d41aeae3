//! Faults: what the plan says goes wrong, struck and lifted.

use super::*;

impl<W: Workload> World<'_, W> {
    pub(super) fn strike(&mut self, at: usize) -> Result<(), Violation> {
        let fault = self.plan.faults[at];
        let node = (fault.node % self.plan.nodes) as usize;
        if self.calm {
            return Ok(());
        }
        self.note(8, node, fault.kind as u64);
        self.timeline.add(node, What::Fault(fault));
        let until_us = self.now_us + fault.amount;
        match fault.kind {
            FaultKind::Crash => self.crash(node, fault.amount),
            FaultKind::Kill => {
                self.cut_off(node);
                self.process_ends(node, fault.amount);
            }
            FaultKind::CrashWriting | FaultKind::CrashSending => {
                self.armed.insert((node, fault.kind), fault.amount);
            }
            FaultKind::Pause => {
                let host = &mut self.hosts[node];
                host.paused_until_us = host.paused_until_us.max(until_us);
            }
            FaultKind::Isolate
            | FaultKind::Deaf
            | FaultKind::Mute
            | FaultKind::Split
            | FaultKind::Bridge
            | FaultKind::Ring => {
                self.network.cut(&fault, true);
                self.queue.push(until_us, Event::Lift(at));
            }
            FaultKind::Clock => self.hosts[node].clock_per_mille = fault.amount,
            FaultKind::SyncError => {
                self.hosts[node].failing = true;
                self.hosts[node].disk.set_faults(Box::new(|operation| match operation {
                    Operation::Sync { .. } => Verdict::FailsAndForgets,
                    _ => Verdict::Done,
                }));
            }
            FaultKind::Full => {
                self.hosts[node].full = true;
                let used = self.hosts[node].disk.used_bytes();
                self.hosts[node].disk.set_capacity(Some(used));
                self.queue.push(until_us, Event::Lift(at));
            }
            FaultKind::Rot => self.rot(node, fault.amount),
            FaultKind::Wipe => self.wipe(node, fault.amount),
        }
        Ok(())
    }

    pub(super) fn lift(&mut self, fault: Fault) {
        if self.calm {
            return;
        }
        self.timeline.add_to_all(What::Lifted(fault));
        match fault.kind {
            FaultKind::Full => {
                let host = &mut self.hosts[(fault.node % self.plan.nodes) as usize];
                host.disk.set_capacity(None);
                host.full = false;
            }
            _ => self.network.cut(&fault, false),
        }
    }

    /// A byte of what is in the log by now will have rotted when the node starts again.
    pub(super) fn rot(&mut self, node: usize, down_us: u64) {
        let host = &mut self.hosts[node];
        if host.up.is_none() || host.rotting.is_some() {
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
        // Where something is written: a rotten zero beyond the end harms nobody.
        let written = content.iter().rposition(|byte| *byte != 0).unwrap_or(0) as u64 + 1;
        let (offset, mask) = (draw.below(written), 1 << draw.below(8));
        let at_write = host.writes + ROT_WRITES;
        let found = content[..written as usize].to_vec();
        host.rotting = Some(Rotting { at_write, down_us, path, offset, mask, found });
    }

    pub(super) fn rots(&mut self, node: usize) {
        let host = &mut self.hosts[node];
        if host.rotting.as_ref().is_none_or(|rotting| host.writes < rotting.at_write) {
            return;
        }
        let Some(rotting) = host.rotting.take() else { return };
        self.crash(node, rotting.down_us);
        let host = &mut self.hosts[node];
        // The file may have been freed or used again meanwhile.
        let content = host.disk.read(&rotting.path).unwrap_or_default();
        if content.starts_with(&rotting.found) {
            let byte = content[rotting.offset as usize] ^ rotting.mask;
            host.disk.damage(&rotting.path, rotting.offset, &[byte]);
            host.rotten = true;
            self.marks.hit("a log rotted");
        }
    }

    /// The disk is replaced by an empty one. The node comes back under its id, as a stranger.
    pub(super) fn wipe(&mut self, node: usize, down_us: u64) {
        if self.hosts[node].up.is_some() {
            self.crash(node, down_us);
        }
        let host = &mut self.hosts[node];
        let life = host.life;
        let incarnation = Incarnation(host.incarnation.0 + 1_000);
        *host = Host::new(node as u64, &self.plan.swarm, incarnation, Membership::default());
        host.life = life + 1;
        host.rotten = true;
        self.marks.hit("a disk was wiped");
    }
}
