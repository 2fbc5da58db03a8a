//! Everyone who waits: one slab, and the lists that run through it.
//!
//! A waiter stands in exactly one list: the queue of its flow while it waits, the list of actions
//! from its resolution until the shell was told, none after that. One pair of links is therefore
//! enough. Its place is free again once its ticket was claimed or abandoned.

use std::task::Waker;
use std::time::Duration;

use super::time::Time;
use super::types::Grant;
use super::{RejectReason, Rejection, Ticket};

/// No waiter.
pub(super) const NIL: u32 = u32::MAX;
/// The slab grows by so many places, so that a burst pays for memory once in a while and not each
/// time.
const CHUNK: usize = 256;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    Free,
    Waiting,
    /// Has a slot that nobody has fetched yet.
    Granted(Grant),
    /// Was turned away and does not know yet.
    Refused(Rejection),
}

#[derive(Debug)]
pub(super) struct Waiter {
    pub(super) state: State,
    pub(super) lane: u32,
    pub(super) class: u8,
    /// Its flow's place in the band of its lane and class.
    pub(super) flow: u32,
    pub(super) arrived: Time,
    /// The `max_wait` under which it came.
    pub(super) patience: Duration,
    /// The client's own deadline.
    pub(super) deadline: Time,
    /// After this it would be served too late for its client.
    pub(super) latest: Time,
    /// Why it will be turned away if its time runs out.
    pub(super) overdue: RejectReason,
    pub(super) waker: Option<Waker>,
    /// In the list of actions: the shell has not been told yet.
    pub(super) unannounced: bool,
    generation: u32,
    previous: u32,
    next: u32,
}

/// A list through the slab: first in, first out, and out from the middle.
#[derive(Debug)]
pub(super) struct List {
    pub(super) head: u32,
    pub(super) tail: u32,
    pub(super) len: u32,
}

impl Default for List {
    fn default() -> List {
        List { head: NIL, tail: NIL, len: 0 }
    }
}

/// The slab.
#[derive(Debug)]
pub(super) struct Waiters {
    slab: Vec<Waiter>,
    free: u32,
    taken: u32,
}

// === impl Waiters ===

impl Waiters {
    pub(super) fn new() -> Waiters {
        Waiters { slab: Vec::new(), free: NIL, taken: 0 }
    }

    /// Takes a place; the waiter is in no list yet.
    pub(super) fn insert(&mut self, lane: u32, arrived: Time) -> (u32, Ticket) {
        if self.free == NIL {
            self.grow();
        }
        let index = self.free;
        let waiter = &mut self.slab[index as usize];
        self.free = waiter.next;
        self.taken += 1;
        waiter.state = State::Waiting;
        waiter.lane = lane;
        waiter.arrived = arrived;
        waiter.next = NIL;
        (index, Ticket { index, generation: waiter.generation })
    }

    /// Gives a place back; the waiter must be in no list.
    pub(super) fn remove(&mut self, index: u32) {
        let free = self.free;
        let waiter = self.get_mut(index);
        invariant!(waiter.state != State::Free, "a place is given back once");
        waiter.state = State::Free;
        waiter.waker = None;
        waiter.generation = waiter.generation.wrapping_add(1);
        waiter.next = free;
        self.free = index;
        self.taken -= 1;
    }

    /// The place of a ticket.
    pub(super) fn find(&self, ticket: &Ticket) -> u32 {
        let known = self.slab.get(ticket.index as usize);
        let valid = known.is_some_and(|w| w.generation == ticket.generation);
        invariant!(valid, "a ticket names its waiter until it is claimed or abandoned");
        ticket.index
    }

    pub(super) fn ticket_id(&self, index: u32) -> (u32, u32) {
        (index, self.get(index).generation)
    }

    pub(super) fn get(&self, index: u32) -> &Waiter {
        &self.slab[index as usize]
    }

    pub(super) fn get_mut(&mut self, index: u32) -> &mut Waiter {
        &mut self.slab[index as usize]
    }

    pub(super) fn push_back(&mut self, list: &mut List, index: u32) {
        let tail = list.tail;
        let waiter = self.get_mut(index);
        waiter.previous = tail;
        waiter.next = NIL;
        match tail {
            NIL => list.head = index,
            tail => self.get_mut(tail).next = index,
        }
        list.tail = index;
        list.len += 1;
    }

    pub(super) fn unlink(&mut self, list: &mut List, index: u32) {
        let (previous, next) = (self.get(index).previous, self.get(index).next);
        match previous {
            NIL => list.head = next,
            previous => self.get_mut(previous).next = next,
        }
        match next {
            NIL => list.tail = previous,
            next => self.get_mut(next).previous = previous,
        }
        invariant!(list.len > 0, "a list that holds a waiter is not empty");
        list.len -= 1;
    }

    /// Places, in use or not.
    pub(super) fn places(&self) -> u32 {
        self.slab.len() as u32
    }

    /// Places in use, for the audit.
    pub(super) fn taken(&self) -> u32 {
        self.taken
    }

    /// The waiters of a list in order, for the audit.
    pub(super) fn iter<'a>(&'a self, list: &List) -> impl Iterator<Item = &'a Waiter> {
        let mut at = list.head;
        std::iter::from_fn(move || {
            let waiter = self.slab.get(at as usize)?;
            at = waiter.next;
            Some(waiter)
        })
    }

    fn grow(&mut self) {
        let first = self.slab.len();
        self.slab.reserve_exact(CHUNK);
        for index in first..first + CHUNK {
            let next = if index + 1 == first + CHUNK { NIL } else { index as u32 + 1 };
            self.slab.push(Waiter {
                state: State::Free,
                lane: 0,
                class: 0,
                flow: 0,
                arrived: Time::ZERO,
                patience: Duration::ZERO,
                deadline: Time::NEVER,
                latest: Time::NEVER,
                overdue: RejectReason::MaxWait,
                waker: None,
                unannounced: false,
                generation: 0,
                previous: NIL,
                next,
            });
        }
        self.free = first as u32;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn order(waiters: &Waiters, list: &List) -> Vec<u64> {
        waiters.iter(list).map(|w| w.arrived.as_nanos()).collect()
    }

    #[test]
    fn lists_keep_their_order_and_give_up_their_middle() {
        let mut waiters = Waiters::new();
        let mut list = List::default();
        let mut places = Vec::new();
        for arrived in 0..5 {
            let (index, ticket) = waiters.insert(0, Time::from_nanos(arrived));
            waiters.push_back(&mut list, index);
            places.push(index);
            ticket.consumed();
        }
        for (place, left) in [(2, vec![0, 1, 3, 4]), (0, vec![1, 3, 4]), (4, vec![1, 3])] {
            waiters.unlink(&mut list, places[place]);
            waiters.remove(places[place]);
            assert_eq!(order(&waiters, &list), left);
        }
        assert_eq!((list.len, waiters.taken()), (2, 2));
    }

    #[test]
    fn a_place_is_reused_under_another_generation() {
        let mut waiters = Waiters::new();
        let (first, ticket) = waiters.insert(0, Time::ZERO);
        let before = waiters.ticket_id(first);
        ticket.consumed();
        waiters.remove(first);
        let (again, ticket) = waiters.insert(0, Time::ZERO);
        assert_eq!(first, again);
        assert_ne!(waiters.ticket_id(again), before);
        ticket.consumed();
    }
}
