//! Links a task; see `cloister-rt-build`.

fn main() {
    cloister_rt_build::task();
}
