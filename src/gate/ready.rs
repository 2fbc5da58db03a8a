//! The lanes that have somebody waiting and could use a slot, in lists by where that slot comes
//! from.
//!
//! A lane that gets a slot goes to the end of its list: lanes take turns, and a thousand idle
//! routes cost nothing.

use super::lane::{Lane, Standing};

const NIL: u32 = u32::MAX;

#[derive(Clone, Copy, Debug)]
struct Ends {
    head: u32,
    tail: u32,
}

/// One list of lanes for each [`Standing`] but `Out`.
#[derive(Debug)]
pub(super) struct Ready {
    reserved: Ends,
    shared: Ends,
    beside: Ends,
}

// === impl Ready ===

impl Ready {
    pub(super) fn new() -> Ready {
        let empty = Ends { head: NIL, tail: NIL };
        Ready { reserved: empty, shared: empty, beside: empty }
    }

    /// The lane whose turn it is in a list.
    pub(super) fn first(&self, standing: Standing) -> Option<u32> {
        let head = match standing {
            Standing::Out => NIL,
            Standing::Reserved => self.reserved.head,
            Standing::Shared => self.shared.head,
            Standing::Beside => self.beside.head,
        };
        (head != NIL).then_some(head)
    }

    /// Puts a lane into the list where it belongs now; its place there is kept if it stays.
    pub(super) fn refile(&mut self, lanes: &mut [Lane], lane: u32) {
        if lanes[lane as usize].belongs() != lanes[lane as usize].standing {
            self.move_to_end(lanes, lane);
        }
    }

    /// Puts a lane to the end of the list where it belongs now.
    pub(super) fn move_to_end(&mut self, lanes: &mut [Lane], lane: u32) {
        self.unlink(lanes, lane);
        let standing = lanes[lane as usize].belongs();
        lanes[lane as usize].standing = standing;
        let Some(ends) = self.ends(standing) else {
            return;
        };
        let tail = ends.tail;
        ends.tail = lane;
        if tail == NIL {
            ends.head = lane;
        } else {
            lanes[tail as usize].next = lane;
        }
        lanes[lane as usize].previous = tail;
        lanes[lane as usize].next = NIL;
    }

    fn unlink(&mut self, lanes: &mut [Lane], lane: u32) {
        let Lane { standing, previous, next, .. } = lanes[lane as usize];
        let Some(ends) = self.ends(standing) else {
            return;
        };
        if previous == NIL {
            ends.head = next;
        } else {
            lanes[previous as usize].next = next;
        }
        if next == NIL {
            ends.tail = previous;
        } else {
            lanes[next as usize].previous = previous;
        }
    }

    fn ends(&mut self, standing: Standing) -> Option<&mut Ends> {
        match standing {
            Standing::Out => None,
            Standing::Reserved => Some(&mut self.reserved),
            Standing::Shared => Some(&mut self.shared),
            Standing::Beside => Some(&mut self.beside),
        }
    }
}
