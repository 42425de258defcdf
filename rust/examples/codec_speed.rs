//! Prints what the codec costs: `cargo run --release --no-default-features --example codec_speed`.

use std::hint::black_box;
use std::time::Instant;

use bus1_native::dbus::{CALL, Endian, Outgoing, RETURN, build, check_body, parse, stamp};

fn measure(what: &str, n_bytes: usize, mut action: impl FnMut()) {
    let mut best = f64::INFINITY;
    let mut rounds = 1_u32;
    for _ in 0..20 {
        let start = Instant::now();
        for _ in 0..rounds {
            action();
        }
        let spent = start.elapsed().as_secs_f64();
        best = best.min(spent / f64::from(rounds));
        if spent < 0.01 {
            rounds = rounds.saturating_mul(4);
        }
    }
    let rate = n_bytes as f64 / best / 1e9;
    println!("{what:34} {:9.1} ns  {rate:6.2} GB/s", best * 1e9);
}

fn texts(texts: &[&str]) -> Vec<u8> {
    let mut out = Vec::new();
    for text in texts {
        out.resize(out.len().next_multiple_of(4), 0);
        out.extend_from_slice(&(text.len() as u32).to_le_bytes());
        out.extend_from_slice(text.as_bytes());
        out.push(0);
    }
    out
}

fn main() {
    let call = build(&Outgoing {
        kind: CALL,
        serial: 7,
        path: Some("/org/freedesktop/Notifications"),
        interface: Some("org.freedesktop.Notifications"),
        member: Some("Notify"),
        destination: Some("org.freedesktop.Notifications"),
        signature: "susssasa{sv}i",
        ..Outgoing::default()
    });
    let answer = build(&Outgoing {
        kind: RETURN,
        serial: 8,
        reply_serial: 7,
        destination: Some(":1.42"),
        ..Outgoing::default()
    });
    let mut out = Vec::with_capacity(1024);
    for (name, message) in [("call", &call), ("return", &answer)] {
        measure(&format!("parse {name}"), message.len(), || {
            black_box(parse(black_box(message)).is_ok());
        });
        let header = parse(message).unwrap();
        measure(&format!("stamp {name}"), message.len(), || {
            out.clear();
            black_box(stamp(black_box(message), &header, b":1.42", &mut out).is_ok());
        });
    }
    let mut bytes = vec![0; 4 + (1 << 20)];
    bytes[..4].copy_from_slice(&(1_u32 << 20).to_le_bytes());
    let mut strings = ((1_u32 << 16) - 2).to_le_bytes().to_vec();
    strings.extend(texts(&["0123456789abc"; 3276]));
    strings.resize(4 + (1 << 16) - 2, 0);
    let length = strings.len() as u32 - 4;
    strings.truncate(4 + length as usize / 20 * 20 - 2);
    let length = strings.len() as u32 - 4;
    strings[..4].copy_from_slice(&length.to_le_bytes());
    let ascii = texts(&[&"x".repeat(1 << 20)]);
    let umlauts = texts(&[&"äxyz".repeat(1 << 18)]);
    let mut notify = texts(&["program"]);
    notify.resize(notify.len().next_multiple_of(4) + 4, 0);
    notify.extend(texts(&["icon", "a summary of it", "and the text that says it all"]));
    notify.resize(notify.len().next_multiple_of(4) + 4, 0);
    notify.extend_from_slice(&28_u32.to_le_bytes());
    notify.resize(notify.len().next_multiple_of(8), 0);
    notify.extend(texts(&["urgency-of-it"]));
    notify.extend_from_slice(b"\x01u\0\0\0\0");
    notify.resize(notify.len().next_multiple_of(4), 0);
    notify.extend_from_slice(&[1, 0, 0, 0, 9, 9, 9, 9]);
    for (name, signature, body) in [
        ("ay of 1 MiB", "ay", &bytes),
        ("s of 1 MiB, ASCII", "s", &ascii),
        ("s of 1 MiB, umlauts", "s", &umlauts),
        ("as of 64 KiB, 13 bytes each", "as", &strings),
        ("no body", "", &Vec::new()),
        ("s", "s", &texts(&["org.freedesktop.Notifications"])),
        ("su", "su", &[&texts(&["hello w"])[..], &[0, 0, 0, 0]].concat()),
        ("notification", "susssasa{sv}i", &notify),
    ] {
        if let Err(error) = check_body(signature, body, Endian::Little) {
            println!("{name}: {error}");
        }
        measure(&format!("check {name}"), body.len(), || {
            black_box(check_body(black_box(signature), black_box(body), Endian::Little).is_ok());
        });
    }
}
