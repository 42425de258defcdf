//! The codec: what is forwarded, what is refused, and at which budget.

use bus1_native::dbus::stamp::MARGIN;
use bus1_native::dbus::{
    Argument, BodyCheck, CALL, ERROR, Endian, MAX_MESSAGE, Malformed, Outgoing, RETURN, SIGNAL, arguments,
    build, check_body, error_body, frame_length, parse, stamp, text_body,
};

fn call() -> Outgoing<'static> {
    Outgoing {
        kind: CALL,
        serial: 7,
        path: Some("/a/b"),
        interface: Some("a.b"),
        member: Some("M"),
        destination: Some(":1.7"),
        signature: "sa{sv}",
        ..Outgoing::default()
    }
}

fn text_of<T: std::fmt::Debug>(result: Result<T, Malformed>) -> String {
    result.unwrap_err().0
}

/// A field that no bus knows, at the end.
fn with_unknown(mut message: Vec<u8>, field: &[u8]) -> Vec<u8> {
    message.extend_from_slice(field);
    let length = message.len() as u32 - 16;
    message[12..16].copy_from_slice(&length.to_le_bytes());
    message.resize(message.len().next_multiple_of(8), 0);
    message
}

#[test]
fn what_is_built_is_parsed_again() {
    for endian in [Endian::Little, Endian::Big] {
        let given = Outgoing { endian, reply_serial: 0x0102_0304, unix_fds: 2, ..call() };
        let message = build(&given);
        let header = parse(&message).unwrap();
        assert_eq!((header.endian, header.kind, header.serial), (endian, CALL, 7));
        assert_eq!((header.reply_serial, header.unix_fds), (0x0102_0304, 2));
        assert_eq!(header.path(&message), Some("/a/b"));
        assert_eq!(header.interface(&message), Some("a.b"));
        assert_eq!(header.member(&message), Some("M"));
        assert_eq!(header.destination(&message), Some(":1.7"));
        assert_eq!((header.sender(&message), header.error_name(&message)), (None, None));
        assert_eq!(header.signature(&message), "sa{sv}");
        assert_eq!(header.header_length, message.len());
        assert_eq!(frame_length(&message), Ok(Some(message.len())));
    }
}

#[test]
fn a_message_says_what_it_must() {
    for (kind, missing) in [(CALL, "path"), (RETURN, "reply_serial"), (ERROR, "error_name"), (SIGNAL, "path")]
    {
        let message = build(&Outgoing { kind, serial: 1, ..Outgoing::default() });
        assert_eq!(text_of(parse(&message)), format!("a message of type {kind} without {missing}"));
    }
    let message = build(&Outgoing { kind: 5, serial: 1, ..Outgoing::default() });
    assert!(parse(&message).is_ok());
}

#[test]
fn what_is_cut_off_is_refused_at_every_length() {
    let message = build(&call());
    for length in 0..message.len() {
        assert!(parse(&message[..length]).is_err(), "{length}");
        assert_eq!(frame_length(&message[..length]), Ok((length >= 16).then_some(message.len())));
    }
}

#[test]
fn a_wrong_byte_never_makes_a_panic() {
    let good = with_unknown(build(&call()), b"\x3c\x04(sv)\0\0\x01\0\0\0x\0\x01y\0\x07");
    assert!(parse(&good).unwrap().has_unknown_fields);
    let mut out = Vec::new();
    for at in 0..good.len() {
        for byte in 0..=255 {
            let mut message = good.clone();
            message[at] = byte;
            if let Ok(header) = parse(&message) {
                out.clear();
                stamp(&message, &header, b":1.1", &mut out).unwrap();
                assert_eq!(out.len(), parse(&out).unwrap().header_length, "{byte} at {at}");
            }
        }
    }
}

#[test]
fn a_stamp_is_the_header_with_the_sender() {
    let message = build(&call());
    let header = parse(&message).unwrap();
    let mut out = b"before".to_vec();
    stamp(&message, &header, b":1.42", &mut out).unwrap();
    let expected = build(&Outgoing { sender: Some(":1.42"), ..call() });
    assert_eq!(out, [b"before", &expected[..]].concat());
    out.clear();
    let header = parse(&expected).unwrap();
    stamp(&expected, &header, b":1.9", &mut out).unwrap();
    assert_eq!(out, build(&Outgoing { sender: Some(":1.9"), ..call() }));
}

#[test]
fn a_stamped_header_fits_where_the_margin_is_free() {
    for n in 1..20 {
        let (member, own) = ("M".repeat(n), format!(":1.{}", "1".repeat(n)));
        for sender in [None, Some(":1.1"), Some(&own)] {
            let message = build(&Outgoing { member: Some(&member), sender, ..call() });
            for message in [with_unknown(message.clone(), &[99, 1, b'y', 0, 7]), message] {
                let header = parse(&message).unwrap();
                for name in
                    [":1.1", ":1.22", ":1.333", ":1.4444", ":1.55555", ":1.666666", ":1.7777777", &own]
                {
                    let mut out = Vec::with_capacity(header.header_length + name.len() + MARGIN);
                    let room = out.capacity();
                    stamp(&message, &header, name.as_bytes(), &mut out).unwrap();
                    assert!(
                        out.capacity() == room && out.len() <= header.header_length + name.len() + MARGIN
                    );
                }
            }
        }
    }
}

#[test]
fn unknown_fields_are_cut_out() {
    let plain = build(&Outgoing { signature: "", destination: Some("a.bcdefgh"), ..call() });
    let padded = plain.len();
    let message = with_unknown(plain.clone(), b"\x3c\x01s\0\x02\0\0\0zz\0");
    let header = parse(&message).unwrap();
    assert!(header.has_unknown_fields && header.header_length > padded);
    let (mut out, mut expected) = (Vec::new(), Vec::new());
    stamp(&message, &header, b":1.42", &mut out).unwrap();
    stamp(&plain, &parse(&plain).unwrap(), b":1.42", &mut expected).unwrap();
    assert_eq!(parse(&out).unwrap().sender(&out), Some(":1.42"));
    assert!(!parse(&out).unwrap().has_unknown_fields);
    assert_eq!(out.len(), expected.len());
}

#[test]
fn a_message_without_room_for_the_sender_is_not_stamped() {
    let message = build(&call());
    let mut stamped = Vec::new();
    stamp(&message, &parse(&message).unwrap(), b":1.42", &mut stamped).unwrap();
    let room = MAX_MESSAGE as u32 - stamped.len() as u32;
    for (body_length, fits) in [(room, true), (room + 1, false)] {
        let message = build(&Outgoing { body_length, ..call() });
        let mut out = b"kept".to_vec();
        let result = stamp(&message, &parse(&message).unwrap(), b":1.42", &mut out);
        assert_eq!(result.is_ok(), fits);
        assert!(fits || out == b"kept");
    }
}

#[test]
fn bodies_are_judged_the_same_at_any_budget() {
    let bodies: [(&str, &[u8], Result<(), &str>); 9] = [
        ("s", b"\x02\0\0\0hi\0", Ok(())),
        ("s", b"\x02\0\0\0h\0\0", Err("a string is cut off, or has a NUL inside or none behind")),
        ("s", b"\x01\0\0\0\xff\0", Err("a string is not UTF-8")),
        ("yu", b"\x01\0\0\0\x05\0\0\0", Ok(())),
        ("yu", b"\x01\0\x01\0\x05\0\0\0", Err("padding is missing or not zero")),
        ("v", b"\x01u\0\0\x07\0\0\0", Ok(())),
        ("a{sv}", b"\x0a\0\0\0\0\0\0\0\x01\0\0\0k\0\x01y\0\x07", Ok(())),
        (
            "a{sv}",
            b"\x0a\0\0\0\0\0\0\0\x01\0\0\0k\0\x01y\0\x07\0",
            Err("the body has 19 bytes, its signature gives 18"),
        ),
        ("b", b"\x02\0\0\0", Err("a boolean is neither 0 nor 1")),
    ];
    for (signature, body, expected) in bodies {
        let verdict = check_body(signature, body, Endian::Little).map_err(|error| error.0);
        for budget in [1, 17, 100] {
            let mut check = BodyCheck::new(signature, Endian::Little, None).unwrap();
            let stepped = loop {
                match check.step(body, budget) {
                    Ok(true) => break Ok(()),
                    Ok(false) => {}
                    Err(error) => break Err(error.0),
                }
            };
            assert_eq!(stepped, verdict, "{signature} {body:?}");
        }
        assert_eq!(verdict, expected.map_err(str::to_owned), "{signature} {body:?}");
    }
}

#[test]
fn a_deep_body_is_refused_and_needs_no_deep_stack() {
    let deep = |n: usize| {
        let mut body = b"\x01v\0".repeat(n);
        body.extend_from_slice(b"\x01y\0\x07");
        body
    };
    assert_eq!(check_body("v", &deep(63), Endian::Little), Ok(()));
    let text = text_of(check_body("v", &deep(64), Endian::Little));
    assert_eq!(text, "more than 64 containers within each other");
    let (mut found, body) = (Vec::new(), deep(1_000_000));
    arguments("vs", &body, Endian::Little, &mut found);
    assert_eq!(found[0], Argument::Other);
    let structs = b"\x03(v)\0\0\0\0\0\0\0\0\0\0\0\0".repeat(100_000);
    arguments("(v)s", &structs, Endian::Little, &mut found);
}

#[test]
fn arguments_are_texts_and_paths() {
    let mut body = text_body("hello");
    body.resize(12, 0);
    body.extend_from_slice(b"\x02\0\0\0/a\0\x01y\0\x07\0\0\0\0\0\0\x03\0\0\0end\0");
    let mut found = Vec::new();
    arguments("sovs", &body, Endian::Little, &mut found);
    assert_eq!(found[..3], [Argument::Text("hello"), Argument::Path("/a"), Argument::Other]);
    assert_eq!(found.len(), 4);
    found.clear();
    arguments("y".repeat(100), &[0; 100], Endian::Little, &mut found);
    assert_eq!(found, [Argument::Other; 64]);
}

#[test]
fn an_error_text_is_cut_between_characters() {
    assert_eq!(error_body("short"), text_body("short"));
    let long = "x".repeat(1023) + "é";
    assert_eq!(error_body(&long), text_body(&"x".repeat(1023)));
}

#[test]
fn what_is_nearly_usual_is_refused() {
    let message = build(&Outgoing {
        kind: 1,
        serial: 1,
        path: Some("/a"),
        member: Some("Mm"),
        destination: Some("a.b"),
        ..Outgoing::default()
    });
    assert!(parse(&message).is_ok());
    for at in 16..message.len() {
        // padding, or the large end of a length
        if message[at - 1..=at] == [0, 0] {
            let mut wrong = message.clone();
            wrong[at] = 1;
            assert!(parse(&wrong).is_err(), "{at}");
        }
    }
    // MEMBER becomes a second PATH, with a path in it
    let at = message.windows(4).position(|four| four == [3, 1, b's', 0]).unwrap();
    let mut twice = message.clone();
    twice[at..at + 4].copy_from_slice(&[1, 1, b'o', 0]);
    twice[at + 8..at + 10].copy_from_slice(b"/m");
    twice[1] = 9; // of a type that needs no member
    assert!(parse(&twice).is_err());
    twice[at] = 6;
    twice[at + 2] = b's';
    twice[at + 8..at + 10].copy_from_slice(b":m");
    assert!(parse(&twice).is_err(), "two destinations");
}

#[test]
fn bytes_of_which_too_many_or_too_few_follow_are_refused() {
    for (length, n_bytes) in [(3_u32, 3), (3, 4), (3, 2), (0, 0), (0, 1)] {
        let mut body = length.to_le_bytes().to_vec();
        body.resize(4 + n_bytes, 7);
        assert_eq!(check_body("ay", &body, Endian::Little).is_ok(), length as usize == n_bytes);
        let mut text = length.to_le_bytes().to_vec();
        text.resize(4 + n_bytes, b't');
        text.push(0);
        assert_eq!(check_body("s", &text, Endian::Little).is_ok(), length as usize == n_bytes);
    }
}
