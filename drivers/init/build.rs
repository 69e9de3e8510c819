//! Links a task that cannot panic; see `cloister-rt-build`.

fn main() {
    cloister_rt_build::task_without_panics();
}
