//! Not a plugin, and it runs code as soon as it is opened: it leaves a file where `PILOT_GALLERY_MARK` says. Nobody may
//! ever see that file.

#[used]
#[unsafe(link_section = ".init_array")]
static FIRST: extern "C" fn() = {
    extern "C" fn first() {
        if let Some(path) = std::env::var_os("PILOT_GALLERY_MARK") {
            let _ = std::fs::write(path, "a constructor has run\n");
        }
    }
    first
};
