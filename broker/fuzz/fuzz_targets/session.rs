//! What a client may send after its CONNECT, to a session.
#![no_main]

use broker::fuzz;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| fuzz::session(data));
