//! Two C libraries for D-Bus, loaded at run time if they are installed: what their users' calls cost.
//!
//! Theory. Both have a function that makes a call and blocks until its reply is there. Each is used as its manual
//! says, by one thread.

use crate::connection::failed;
use crate::message::{INTERFACE, PATH, TEXT};
use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::io;
use std::mem::transmute;
use std::ptr;

type Thing = *mut c_void;
type Text = *const c_char;

/// A client that makes one call after the other.
pub trait Caller {
    /// Its unique name.
    fn name(&self) -> &str;

    /// Call Echo, and wait for the reply.
    fn call(&mut self) -> io::Result<()>;
}

/// A client with the library `name` that will call `destination`.
pub fn caller(name: &str, address: &str, destination: &str) -> io::Result<Box<dyn Caller>> {
    let words = Words::new(destination)?;
    let address = c_string(address)?;
    match name {
        "libdbus" => Ok(Box::new(Libdbus::connect(&address, words)?)),
        "sd-bus" => Ok(Box::new(SdBus::connect(&address, words)?)),
        _ => Err(failed("there is no such library")),
    }
}

/// What a call says, as C wants it.
struct Words {
    destination: CString,
    path: CString,
    interface: CString,
    text: CString,
}

fn c_string(text: &str) -> io::Result<CString> {
    CString::new(text).map_err(|_| failed("a NUL in a string"))
}

impl Words {
    fn new(destination: &str) -> io::Result<Self> {
        let (destination, path) = (c_string(destination)?, c_string(PATH)?);
        Ok(Self {
            destination,
            path,
            interface: c_string(INTERFACE)?,
            text: c_string(TEXT)?,
        })
    }
}

fn open(library: &CStr) -> io::Result<Thing> {
    // SAFETY: the name is a C string; the library's initialisers are those of any program that is linked to it.
    let opened = unsafe { libc::dlopen(library.as_ptr(), libc::RTLD_NOW) };
    if opened.is_null() {
        Err(failed(format!(
            "{} is not installed",
            library.to_string_lossy()
        )))
    } else {
        Ok(opened)
    }
}

fn find(library: Thing, name: &CStr) -> io::Result<Thing> {
    // SAFETY: the library was opened and is never closed; the name is a C string.
    let found = unsafe { libc::dlsym(library, name.as_ptr()) };
    if found.is_null() {
        Err(failed(format!("there is no {}", name.to_string_lossy())))
    } else {
        Ok(found)
    }
}

fn checked(result: c_int, what: &str) -> io::Result<()> {
    if result < 0 {
        Err(failed(format!(
            "{what}: {}",
            io::Error::from_raw_os_error(-result)
        )))
    } else {
        Ok(())
    }
}

/// A copy of a C string.
// SAFETY: to call it, `text` must be null or a C string.
unsafe fn copied(text: Text) -> io::Result<String> {
    if text.is_null() {
        return Err(failed("the library has no unique name"));
    }
    // SAFETY: the caller promises it.
    Ok(unsafe { CStr::from_ptr(text) }
        .to_string_lossy()
        .into_owned())
}

struct Libdbus {
    connection: Thing,
    name: String,
    words: Words,
    new_call: unsafe extern "C" fn(Text, Text, Text, Text) -> Thing,
    append: unsafe extern "C" fn(Thing, c_int, ...) -> c_int,
    send: unsafe extern "C" fn(Thing, Thing, c_int, Thing) -> Thing,
    unref: unsafe extern "C" fn(Thing),
}

impl Libdbus {
    fn connect(address: &CStr, words: Words) -> io::Result<Self> {
        let library = open(c"libdbus-1.so.3")?;
        let open_private = find(library, c"dbus_connection_open_private")?;
        let register = find(library, c"dbus_bus_register")?;
        let get_name = find(library, c"dbus_bus_get_unique_name")?;
        // SAFETY: the types are those of dbus-connection.h, dbus-bus.h and dbus-message.h; an error may be null.
        unsafe {
            let open_private: unsafe extern "C" fn(Text, Thing) -> Thing = transmute(open_private);
            let register: unsafe extern "C" fn(Thing, Thing) -> c_int = transmute(register);
            let connection = open_private(address.as_ptr(), ptr::null_mut());
            if connection.is_null() || register(connection, ptr::null_mut()) == 0 {
                return Err(failed("libdbus could not connect"));
            }
            let get_name: unsafe extern "C" fn(Thing) -> Text = transmute(get_name);
            Ok(Self {
                connection,
                name: copied(get_name(connection))?,
                words,
                new_call: transmute::<Thing, unsafe extern "C" fn(Text, Text, Text, Text) -> Thing>(
                    find(library, c"dbus_message_new_method_call")?,
                ),
                append: transmute::<Thing, unsafe extern "C" fn(Thing, c_int, ...) -> c_int>(find(
                    library,
                    c"dbus_message_append_args",
                )?),
                send: transmute::<Thing, unsafe extern "C" fn(Thing, Thing, c_int, Thing) -> Thing>(
                    find(library, c"dbus_connection_send_with_reply_and_block")?,
                ),
                unref: transmute::<Thing, unsafe extern "C" fn(Thing)>(find(
                    library,
                    c"dbus_message_unref",
                )?),
            })
        }
    }
}

impl Caller for Libdbus {
    fn name(&self) -> &str {
        &self.name
    }

    fn call(&mut self) -> io::Result<()> {
        let words = &self.words;
        let (to, path) = (words.destination.as_ptr(), words.path.as_ptr());
        let text = words.text.as_ptr();
        // SAFETY: all strings outlive the calls, the list of arguments ends with DBUS_TYPE_INVALID, and both messages
        // are given back once.
        unsafe {
            let message = (self.new_call)(to, path, words.interface.as_ptr(), c"Echo".as_ptr());
            if message.is_null() {
                return Err(failed("libdbus has no memory"));
            }
            (self.append)(message, c_int::from(b's'), &raw const text, 0 as c_int);
            let reply = (self.send)(self.connection, message, -1, ptr::null_mut());
            (self.unref)(message);
            if reply.is_null() {
                return Err(failed("libdbus got no reply"));
            }
            (self.unref)(reply);
        }
        Ok(())
    }
}

struct SdBus {
    bus: Thing,
    name: String,
    words: Words,
    call:
        unsafe extern "C" fn(Thing, Text, Text, Text, Text, Thing, *mut Thing, Text, ...) -> c_int,
    unref: unsafe extern "C" fn(Thing) -> Thing,
}

impl SdBus {
    fn connect(address: &CStr, words: Words) -> io::Result<Self> {
        let library = open(c"libsystemd.so.0")?;
        let mut bus = ptr::null_mut();
        // SAFETY: the types are those of sd-bus.h.
        unsafe {
            let new: unsafe extern "C" fn(*mut Thing) -> c_int =
                transmute(find(library, c"sd_bus_new")?);
            let set_address: unsafe extern "C" fn(Thing, Text) -> c_int =
                transmute(find(library, c"sd_bus_set_address")?);
            let set_client: unsafe extern "C" fn(Thing, c_int) -> c_int =
                transmute(find(library, c"sd_bus_set_bus_client")?);
            let start: unsafe extern "C" fn(Thing) -> c_int =
                transmute(find(library, c"sd_bus_start")?);
            checked(new(&mut bus), "sd_bus_new")?;
            checked(set_address(bus, address.as_ptr()), "sd_bus_set_address")?;
            checked(set_client(bus, 1), "sd_bus_set_bus_client")?;
            checked(start(bus), "sd_bus_start")?;
            type Call = unsafe extern "C" fn(
                Thing,
                Text,
                Text,
                Text,
                Text,
                Thing,
                *mut Thing,
                Text,
                ...
            ) -> c_int;
            let call = transmute::<Thing, Call>(find(library, c"sd_bus_call_method")?);
            let unref = find(library, c"sd_bus_message_unref")?;
            let unref = transmute::<Thing, unsafe extern "C" fn(Thing) -> Thing>(unref);
            let get_name: unsafe extern "C" fn(Thing, *mut Text) -> c_int =
                transmute(find(library, c"sd_bus_get_unique_name")?);
            let mut name = ptr::null();
            checked(get_name(bus, &mut name), "sd_bus_get_unique_name")?;
            Ok(Self {
                bus,
                name: copied(name)?,
                words,
                call,
                unref,
            })
        }
    }
}

impl Caller for SdBus {
    fn name(&self) -> &str {
        &self.name
    }

    fn call(&mut self) -> io::Result<()> {
        let words = &self.words;
        let (to, path) = (words.destination.as_ptr(), words.path.as_ptr());
        let mut reply = ptr::null_mut();
        // SAFETY: all strings outlive the call, the argument is the one that the signature says, and the reply is
        // given back once.
        unsafe {
            let (interface, text) = (words.interface.as_ptr(), words.text.as_ptr());
            let none = ptr::null_mut();
            let made = (self.call)(
                self.bus,
                to,
                path,
                interface,
                c"Echo".as_ptr(),
                none,
                &mut reply,
                c"s".as_ptr(),
                text,
            );
            checked(made, "sd_bus_call_method")?;
            (self.unref)(reply);
        }
        Ok(())
    }
}
