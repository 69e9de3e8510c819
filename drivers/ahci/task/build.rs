//! Sets the log level of the library's own messages; see `cloister-rt-build`.

fn main() {
    cloister_rt_build::log_level();
}
