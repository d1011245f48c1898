//! Threads that split one operation at a time.
//!
//! Owns the workers and the hand-over of work: a static partition, one atomic epoch, a short spin, then sleep, so that
//! idle workers cost nothing and a machine with more work than cores still makes progress. The calling thread is
//! worker 0. Must not know what is computed.
#![expect(unsafe_code, reason = "lends a borrowed closure, and disjoint parts of a buffer, to the workers")]

use std::marker::PhantomData;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{JoinHandle, Thread};

/// Turns of the spin before a waiting thread sleeps: some tens of microseconds, longer than a gap between operations.
const SPINS: u32 = 2_000;

/// Parts per thread that work is split into: enough to even out what threads lose to others, few enough that taking them
/// costs nothing.
const PARTS: usize = 4;

/// A borrowed closure with its lifetime taken off; valid from publication until every worker has finished it.
#[derive(Clone, Copy)]
struct Job(&'static (dyn Fn(usize) + Sync));

struct Shared {
    job: Mutex<Option<Job>>,
    /// Counts jobs; a worker that sees a new value takes the job.
    epoch: AtomicUsize,
    /// Workers that have not finished the current job.
    n_running: AtomicUsize,
    panicked: AtomicBool,
    stop: AtomicBool,
    /// Per worker: asleep, or about to be.
    asleep: Vec<AtomicBool>,
    /// The thread inside `run`, and whether it sleeps.
    caller: Mutex<Option<Thread>>,
    caller_asleep: AtomicBool,
}

/// The start of a buffer that `split_rows` cuts into parts.
struct Start<T>(*mut T);

// SAFETY: threads reach the buffer only through parts that do not overlap, and what lies in it may change threads.
unsafe impl<T: Send> Sync for Start<T> {}

impl<T> Start<T> {
    /// # Safety
    /// `offset` lies inside the buffer, or at its end.
    unsafe fn at(&self, offset: usize) -> *mut T {
        // SAFETY: the caller's promise.
        unsafe { self.0.add(offset) }
    }
}

/// A matrix that is written: row i begins at `values[i·stride]`. Threads fill it by blocks of some rows and columns.
pub struct MatrixMut<'a> {
    start: Start<f32>,
    len: usize,
    stride: usize,
    shape: [usize; 2],
    block: [usize; 2],
    borrowed: PhantomData<&'a mut [f32]>,
}

impl<'a> MatrixMut<'a> {
    /// Row after row, with `stride` values from one to the next; what lies between them is left alone.
    #[must_use]
    pub fn new(values: &'a mut [f32], stride: usize) -> Self {
        let (start, len) = (Start(values.as_mut_ptr()), values.len());
        Self { start, len, stride, shape: [0; 2], block: [1; 2], borrowed: PhantomData }
    }

    /// Says how many rows and columns there are, and in a block; the last blocks have fewer.
    ///
    /// # Panics
    /// If rows overlap or the matrix exceeds its values
    pub(crate) fn cut(&mut self, shape: [usize; 2], block: [usize; 2]) {
        let [rows, cols] = shape;
        let last = rows.checked_sub(1).map_or(Some(0), |n| n.checked_mul(self.stride)?.checked_add(cols));
        assert!(last.is_some_and(|last| last <= self.len), "{rows} rows of {cols} in {} values", self.len);
        assert!(rows < 2 || cols <= self.stride, "rows of {cols} values every {} overlap", self.stride);
        assert!(block[0] > 0 && block[1] > 0, "blocks without elements");
        (self.shape, self.block) = (shape, block);
    }

    /// Blocks of rows, and of columns.
    fn counts(&self) -> [usize; 2] {
        [self.shape[0].div_ceil(self.block[0]), self.shape[1].div_ceil(self.block[1])]
    }

    fn n_blocks(&self) -> usize {
        let [rows, cols] = self.counts();
        rows * cols
    }

    /// # Safety
    /// While a block lives, it is not made again.
    unsafe fn block(&self, i: usize) -> Block<'_> {
        let n_across = self.counts()[1];
        let range = |i: usize, axis: usize| {
            let (len, block) = (self.shape[axis], self.block[axis]);
            i * block..len.min((i + 1) * block)
        };
        let (rows, cols) = (range(i / n_across, 0), range(i % n_across, 1));
        Block { start: &self.start, stride: self.stride, rows, cols }
    }
}

/// What has a matrix to be filled.
pub(crate) trait HasMatrix<'a> {
    fn matrix(&self) -> &MatrixMut<'a>;
}

/// Some rows and columns of a matrix, for one thread.
pub(crate) struct Block<'a> {
    start: &'a Start<f32>,
    stride: usize,
    rows: Range<usize>,
    cols: Range<usize>,
}

impl Block<'_> {
    /// Which rows of the matrix.
    pub(crate) fn rows(&self) -> Range<usize> {
        self.rows.clone()
    }

    /// Which columns of the matrix.
    pub(crate) fn cols(&self) -> Range<usize> {
        self.cols.clone()
    }

    #[inline(always)]
    fn offset(&self, row: usize, col: usize, n: usize) -> usize {
        assert!(self.rows.contains(&row) && self.cols.start <= col && col + n <= self.cols.end, "outside of the block");
        row * self.stride + col
    }

    /// `n` values of a row of the matrix, from its column `col` on, all of them in the block.
    #[inline(always)]
    pub(crate) fn get(&self, row: usize, col: usize, n: usize) -> &[f32] {
        // SAFETY: the place lies in the block, so in the buffer that the matrix borrows, and nobody else has it.
        unsafe { std::slice::from_raw_parts(self.start.at(self.offset(row, col, n)), n) }
    }

    /// The same, to be written.
    #[inline(always)]
    pub(crate) fn get_mut(&mut self, row: usize, col: usize, n: usize) -> &mut [f32] {
        // SAFETY: as for `get`, and the block is borrowed mutably as long as the result.
        unsafe { std::slice::from_raw_parts_mut(self.start.at(self.offset(row, col, n)), n) }
    }
}

/// `job(first row, rows of a, rows of b)`
type BothJob<'a, T> = &'a (dyn Fn(usize, &mut [T], &mut [T]) + Sync);

/// A fixed set of threads.
pub struct Pool {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
    /// One operation at a time: two callers take turns.
    turn: Mutex<()>,
}

impl Pool {
    /// A pool in which `n_threads` threads work, the caller included. Threads that the system refuses are done without.
    #[must_use]
    pub fn new(n_threads: usize) -> Self {
        let n_workers = n_threads.saturating_sub(1);
        let shared = Arc::new(Shared {
            job: Mutex::new(None),
            epoch: AtomicUsize::new(0),
            n_running: AtomicUsize::new(0),
            panicked: AtomicBool::new(false),
            stop: AtomicBool::new(false),
            asleep: (0..n_workers).map(|_| AtomicBool::new(false)).collect(),
            caller: Mutex::new(None),
            caller_asleep: AtomicBool::new(false),
        });
        let start = |i: usize| {
            let shared = shared.clone();
            std::thread::Builder::new().name(format!("minke-cpu-{}", i + 1)).spawn(move || shared.work(i))
        };
        let workers = (0..n_workers).map_while(|i| start(i).ok()).collect();
        Self { shared, workers, turn: Mutex::new(()) }
    }

    /// Threads that work, the caller included.
    #[must_use]
    pub fn n_threads(&self) -> usize {
        self.workers.len() + 1
    }

    /// Calls `job(worker)` once on every thread and returns when all are done. A job must not call back into its pool:
    /// it would wait for itself.
    ///
    /// # Panics
    /// With the job's own panic, or if it panicked on another thread
    pub fn run(&self, job: &(dyn Fn(usize) + Sync)) {
        if self.workers.is_empty() {
            return job(0);
        }
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        let shared = &*self.shared;
        // SAFETY: only the lifetime changes. `wait` below returns after the last worker has left the closure, and
        // nothing between here and there unwinds: the caller's own share is caught.
        let job_static =
            unsafe { std::mem::transmute::<&(dyn Fn(usize) + Sync), &'static (dyn Fn(usize) + Sync)>(job) };
        *shared.caller.lock().unwrap_or_else(PoisonError::into_inner) = Some(std::thread::current());
        *shared.job.lock().unwrap_or_else(PoisonError::into_inner) = Some(Job(job_static));
        shared.n_running.store(self.workers.len(), Ordering::SeqCst);
        shared.epoch.fetch_add(1, Ordering::SeqCst);
        for (worker, asleep) in self.workers.iter().zip(&shared.asleep) {
            if asleep.load(Ordering::SeqCst) {
                worker.thread().unpark();
            }
        }
        let own = catch_unwind(AssertUnwindSafe(|| job(0)));
        shared.wait();
        if let Err(panic) = own {
            resume_unwind(panic);
        }
        assert!(!shared.panicked.swap(false, Ordering::SeqCst), "a worker panicked");
    }

    /// Splits `0..n` into even parts, of which each thread takes another whenever it is done with one: `job(worker, range)`.
    /// A thread that is held up, by another program or a slower core, leaves more to the others.
    pub fn split(&self, n: usize, job: &(dyn Fn(usize, Range<usize>) + Sync)) {
        let n_parts = n.min(PARTS * self.n_threads());
        if self.workers.is_empty() || n < 2 {
            return if n > 0 {
                job(0, 0..n)
            };
        }
        let next = AtomicUsize::new(0);
        self.run(&|worker| {
            loop {
                let part = next.fetch_add(1, Ordering::Relaxed);
                if part >= n_parts {
                    return;
                }
                job(worker, part * n / n_parts..(part + 1) * n / n_parts);
            }
        });
    }

    /// Splits the leading `n` rows of `row_len` values among the threads: `job(worker, first row, rows)`.
    ///
    /// # Panics
    /// If `values` is shorter than that
    pub fn split_rows<T: Send>(
        &self,
        values: &mut [T],
        n: usize,
        row_len: usize,
        job: &(dyn Fn(usize, usize, &mut [T]) + Sync),
    ) {
        let start = Start(values[..n * row_len].as_mut_ptr());
        self.split(n, &|worker, rows| {
            // SAFETY: the ranges of `split` lie inside `0..n`, so this part inside the buffer that is borrowed here,
            // and they do not overlap, so that each part has one user.
            let part = unsafe { std::slice::from_raw_parts_mut(start.at(rows.start * row_len), rows.len() * row_len) };
            job(worker, rows.start, part);
        });
    }

    /// Splits the leading `n` rows of two buffers alike: `job(first row, rows of a, rows of b)`.
    ///
    /// # Panics
    /// If one is shorter than that
    pub fn split_both<T: Send>(
        &self,
        (a, a_len): (&mut [T], usize),
        (b, b_len): (&mut [T], usize),
        n: usize,
        job: BothJob<'_, T>,
    ) {
        let (a, b) = (Start(a[..n * a_len].as_mut_ptr()), Start(b[..n * b_len].as_mut_ptr()));
        self.split(n, &|_, rows| {
            // SAFETY: as in `split_rows`, for each of two buffers that are borrowed here and so do not overlap.
            let parts = unsafe {
                (
                    std::slice::from_raw_parts_mut(a.at(rows.start * a_len), rows.len() * a_len),
                    std::slice::from_raw_parts_mut(b.at(rows.start * b_len), rows.len() * b_len),
                )
            };
            job(rows.start, parts.0, parts.1);
        });
    }
}

impl Pool {
    /// Gives every block of every matrix to a thread: `job(worker, its owner, block)`. Threads take blocks in order,
    /// another whenever they are done with one.
    pub(crate) fn split_blocks<'a, T: HasMatrix<'a> + Sync>(
        &self,
        owners: &mut [T],
        job: &(dyn Fn(usize, &T, Block<'_>) + Sync),
    ) {
        let owners = &*owners;
        let total: usize = owners.iter().map(|owner| owner.matrix().n_blocks()).sum();
        let next = AtomicUsize::new(0);
        let work = |worker: usize| {
            let (mut at, mut first) = (0, 0);
            loop {
                let i = next.fetch_add(1, Ordering::Relaxed);
                if i >= total {
                    return;
                }
                // A worker's numbers only grow.
                while i - first >= owners[at].matrix().n_blocks() {
                    first += owners[at].matrix().n_blocks();
                    at += 1;
                }
                // SAFETY: every number is taken once, and the owners are borrowed mutably, so that no other call makes
                // blocks of their matrices.
                let block = unsafe { owners[at].matrix().block(i - first) };
                job(worker, &owners[at], block);
            }
        };
        if total < 2 { work(0) } else { self.run(&work) }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        self.shared.epoch.fetch_add(1, Ordering::SeqCst);
        for worker in self.workers.drain(..) {
            worker.thread().unpark();
            // A worker catches its jobs' panics, so it has none of its own to tell.
            let _ = worker.join();
        }
    }
}

impl Shared {
    /// The life of worker `i`, who is number `i + 1` to its jobs.
    fn work(&self, i: usize) {
        let mut seen = 0;
        loop {
            seen = self.next_epoch(i, seen);
            if self.stop.load(Ordering::SeqCst) {
                return;
            }
            let job = *self.job.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(Job(job)) = job
                && catch_unwind(AssertUnwindSafe(|| job(i + 1))).is_err()
            {
                self.panicked.store(true, Ordering::SeqCst);
            }
            if self.n_running.fetch_sub(1, Ordering::SeqCst) == 1
                && self.caller_asleep.load(Ordering::SeqCst)
                && let Some(caller) = &*self.caller.lock().unwrap_or_else(PoisonError::into_inner)
            {
                caller.unpark();
            }
        }
    }

    /// Waits for an epoch other than `seen`: spins, then sleeps.
    fn next_epoch(&self, i: usize, seen: usize) -> usize {
        let changed = || Some(self.epoch.load(Ordering::SeqCst)).filter(|epoch| *epoch != seen);
        if let Some(epoch) = spin(changed) {
            return epoch;
        }
        // Either the publisher sees `asleep` and wakes us, or we see its epoch here: both are sequentially consistent.
        self.asleep[i].store(true, Ordering::SeqCst);
        let epoch = loop {
            if let Some(epoch) = changed() {
                break epoch;
            }
            std::thread::park();
        };
        self.asleep[i].store(false, Ordering::SeqCst);
        epoch
    }

    /// Waits until every worker has finished the job: spins, then sleeps.
    fn wait(&self) {
        let done = || (self.n_running.load(Ordering::SeqCst) == 0).then_some(());
        if spin(done).is_some() {
            return;
        }
        self.caller_asleep.store(true, Ordering::SeqCst);
        while done().is_none() {
            std::thread::park();
        }
        self.caller_asleep.store(false, Ordering::SeqCst);
    }
}

fn spin<T>(ready: impl Fn() -> Option<T>) -> Option<T> {
    for _ in 0..SPINS {
        if let Some(value) = ready() {
            return Some(value);
        }
        std::hint::spin_loop();
    }
    None
}

/// A value that threads may write at the same time as others write its neighbours.
#[repr(transparent)]
pub(crate) struct Shared32(AtomicU32);

impl Shared32 {
    /// The value; an ordinary load to the processor.
    #[inline(always)]
    pub(crate) fn get(&self) -> f32 {
        f32::from_bits(self.0.load(Ordering::Relaxed))
    }

    /// Stores a value; an ordinary store to the processor.
    #[inline(always)]
    pub(crate) fn set(&self, value: f32) {
        self.0.store(value.to_bits(), Ordering::Relaxed);
    }
}

/// A buffer as values that several threads may write.
pub(crate) fn shared(values: &mut [f32]) -> &[Shared32] {
    let (start, len) = (values.as_mut_ptr().cast::<Shared32>(), values.len());
    // SAFETY: `Shared32` has the size and alignment of f32, any bits are valid, and the buffer is borrowed mutably for
    // as long as the result, so that all access goes through it.
    unsafe { std::slice::from_raw_parts(start, len) }
}

#[cfg(test)]
mod tests {
    use super::*;

    impl<'a> HasMatrix<'a> for (usize, MatrixMut<'a>) {
        fn matrix(&self) -> &MatrixMut<'a> {
            &self.1
        }
    }

    #[test]
    fn every_worker_runs_every_job_once() {
        for n_threads in [1, 2, 3, 8] {
            let pool = Pool::new(n_threads);
            for round in 0..2000 {
                let calls: Vec<AtomicUsize> = (0..n_threads).map(|_| AtomicUsize::new(0)).collect();
                pool.run(&|worker| {
                    calls[worker].fetch_add(1, Ordering::Relaxed);
                });
                assert!(calls.iter().all(|c| c.load(Ordering::Relaxed) == 1), "round {round}");
            }
        }
    }

    #[test]
    fn workers_that_fell_asleep_wake_up() {
        let pool = Pool::new(3);
        for _ in 0..20 {
            std::thread::sleep(std::time::Duration::from_millis(3));
            let calls = AtomicUsize::new(0);
            pool.run(&|_| {
                std::thread::sleep(std::time::Duration::from_millis(1));
                calls.fetch_add(1, Ordering::Relaxed);
            });
            assert_eq!(calls.into_inner(), 3);
        }
    }

    #[test]
    fn rows_are_split_without_gap_or_overlap() {
        let pool = Pool::new(3);
        for n in 0..20 {
            let mut values = vec![0.0; 40];
            pool.split_rows(&mut values, n, 2, &|_, first, rows| {
                for (i, row) in rows.chunks_exact_mut(2).enumerate() {
                    row[0] += (first + i) as f32;
                    row[1] += 1.0;
                }
            });
            let expected = (0..20).flat_map(|i| if i < n { [i as f32, 1.0] } else { [0.0, 0.0] });
            assert!(values.iter().copied().eq(expected), "{n} rows");
        }
    }

    #[test]
    fn two_buffers_are_split_alike() {
        let pool = Pool::new(3);
        for n in 0..20 {
            let (mut a, mut b) = (vec![0; 60], vec![0; 20]);
            pool.split_both((&mut a, 3), (&mut b, 1), n, &|first, a, b| {
                for (i, (a, b)) in a.chunks_exact_mut(3).zip(b).enumerate() {
                    a.fill(first + i + 1);
                    *b += first + i + 1;
                }
            });
            let expected = |i: usize| if i < n { i + 1 } else { 0 };
            assert!((0..20).all(|i| b[i] == expected(i) && a[3 * i..3 * i + 3] == [b[i]; 3]), "{n} rows");
        }
    }

    #[test]
    fn blocks_cover_matrices_once_each() {
        let pool = Pool::new(3);
        for (rows, cols) in [(0, 3), (3, 0), (1, 1), (7, 5), (12, 9)] {
            for block in [[1, 1], [2, 4], [5, 2], [20, 20]] {
                let mut values = [vec![0.0; 12 * 11], vec![0.0; 12 * 11]];
                let [a, b] = &mut values;
                let mut matrices = [(0, MatrixMut::new(a, 11)), (1, MatrixMut::new(b, 10))];
                matrices[0].1.cut([rows, cols], block);
                matrices[1].1.cut([cols, rows.min(10)], block);
                pool.split_blocks(&mut matrices, &|_, (matrix, _), mut block| {
                    for row in block.rows() {
                        let cols = block.cols();
                        for (col, value) in (cols.start..).zip(block.get_mut(row, cols.start, cols.len())) {
                            *value += (1 + matrix + row * 100 + col) as f32;
                        }
                    }
                });
                for (matrix, (values, stride, shape)) in
                    [(&values[0], 11, [rows, cols]), (&values[1], 10, [cols, rows.min(10)])].into_iter().enumerate()
                {
                    for (i, value) in values.iter().enumerate() {
                        let (row, col) = (i / stride, i % stride);
                        let inside = row < shape[0] && col < shape[1];
                        assert_eq!(*value, if inside { (1 + matrix + row * 100 + col) as f32 } else { 0.0 });
                    }
                }
            }
        }
    }

    #[test]
    #[should_panic(expected = "outside of the block")]
    fn a_block_lends_nothing_of_its_neighbours() {
        let mut values = vec![0.0; 12];
        let mut matrix = MatrixMut::new(&mut values, 4);
        matrix.cut([3, 4], [3, 2]);
        Pool::new(1).split_blocks(&mut [(0, matrix)], &|_, _, block| _ = block.get(0, block.cols().start + 1, 2));
    }

    #[test]
    fn a_panic_reaches_the_caller_and_the_pool_survives() {
        let pool = Pool::new(4);
        for guilty in 0..4 {
            let result = catch_unwind(AssertUnwindSafe(|| pool.run(&|worker| assert_ne!(worker, guilty))));
            assert!(result.is_err());
            let calls = AtomicUsize::new(0);
            pool.run(&|_| {
                calls.fetch_add(1, Ordering::Relaxed);
            });
            assert_eq!(calls.into_inner(), 4);
        }
    }

    #[test]
    fn two_callers_take_turns() {
        let pool = Pool::new(2);
        let calls = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..200 {
                        pool.run(&|_| {
                            calls.fetch_add(1, Ordering::Relaxed);
                        });
                    }
                });
            }
        });
        assert_eq!(calls.into_inner(), 4 * 200 * 2);
    }
}
