//! Links a guest program; see `cloister-guest-rt-build`.

fn main() {
    cloister_guest_rt_build::guest();
}
