//! Who reads next on a session's socket, as loom runs it: the loader's own `child/turns.rs`, compiled with atomics that
//! loom schedules, under what the session does with it, as small as it can be. Every interleaving is run (of a few
//! preemptions where there are three threads).
//!
//! What is looked for: that calls are served and nobody reads on, although messages are there; and numbers that go below
//! zero. What is not modelled: the socket, the limits of calls, and a thread that the system refuses to make.

#![cfg(test)]

/// The file that the loader compiles; it takes its atomics from here.
#[path = "../../../src/child/turns.rs"]
#[expect(dead_code, reason = "the constructors and ways out that only the session uses")]
mod turns;

mod atomic {
    pub(super) use loom::sync::atomic::{AtomicUsize, Ordering};
}

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};

use loom::sync::{Arc, Condvar, Mutex};

use turns::Turns;

/// One end of a session, without its socket.
struct World {
    turns: Turns,
    /// Messages that have not been read; whoever holds it is the reader.
    socket: Mutex<VecDeque<usize>>,
    /// How many were read, for those that wait for a later one.
    read: Mutex<usize>,
    changed: Condvar,
}

/// Each message but the last is a call that is served only once the next message has been read, as a call that asks the
/// other side back is. When nobody reads while all serve, nobody goes on, which loom reports as a deadlock. The number of
/// interleavings.
fn explore(messages: usize, threads: usize, most_idle: usize, preemptions: Option<usize>) -> u64 {
    let runs = std::sync::Arc::new(AtomicU64::new(0));
    let counted = runs.clone();
    let mut explorer = loom::model::Builder::new();
    explorer.preemption_bound = preemptions;
    explorer.check(move || {
        counted.fetch_add(1, Ordering::Relaxed);
        let world = Arc::new(World {
            turns: Turns::with(threads, most_idle),
            socket: Mutex::new((1..=messages).collect()),
            read: Mutex::new(0),
            changed: Condvar::new(),
        });
        let waiting: Vec<_> = (0..threads)
            .map(|_| {
                assert!(world.turns.join());
                let world = world.clone();
                loom::thread::spawn(move || take_turns(&world, messages))
            })
            .collect();
        for thread in waiting {
            thread.join().expect("a thread of the session panicked");
        }
        assert_eq!(*world.read.lock().expect("no panic"), messages);
    });
    runs.load(Ordering::Relaxed)
}

/// `Session::take_turns`, with `lead` and `serve` in it.
fn take_turns(world: &World, last: usize) {
    loop {
        let mut socket = world.socket.lock().expect("no panic");
        world.turns.took();
        let call = loop {
            let Some(message) = socket.pop_front() else {
                world.turns.leave();
                return;
            };
            *world.read.lock().expect("no panic") += 1;
            world.changed.notify_all();
            // Without a successor it is answered "busy", and this thread goes on reading.
            if message < last && world.turns.has_successor() {
                break message;
            }
        };
        drop(socket);
        let mut read = world.read.lock().expect("no panic");
        while *read <= call {
            read = world.changed.wait(read).expect("no panic");
        }
        drop(read);
        if !world.turns.rejoin() {
            return;
        }
    }
}

#[test]
fn two_threads_never_leave_the_socket_alone() {
    println!("two threads, all interleavings: {}", explore(3, 2, 1, None));
}

#[test]
fn three_threads_of_which_one_may_wait() {
    // Three preemptions are twenty seconds: part of the long tests.
    let preemptions = if std::env::var_os("PILOT_LONG").is_some() { 3 } else { 2 };
    let runs = explore(4, 3, 1, Some(preemptions));
    println!("three threads, up to {preemptions} preemptions: {runs}");
}
