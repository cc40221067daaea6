//! Libraries to link with that open NVIDIA's at the first call of a function.
//!
//! A program that is linked with the real ones does not start without them. One that is linked with these
//! does: where a library is missing every function of it answers with an error, such as CUDA's "no device".

use crate::process::{root, run};
use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A library of NVIDIA.
struct Library {
    name: &'static str,
    /// The module of cudarc that binds it.
    source: &'static str,
    /// What it is called where it is installed, the newest first.
    files: &'static [&'static str],
    /// What its functions answer where it is missing.
    missing: u32,
}

#[rustfmt::skip]
const LIBRARIES: &[Library] = &[
    Library { name: "cuda", source: "driver", files: &["libcuda.so.1"], missing: 100 },
    Library { name: "cublas", source: "cublas", files: &["libcublas.so.13", "libcublas.so.12"], missing: 1 },
    Library { name: "cublasLt", source: "cublaslt", files: &["libcublasLt.so.13", "libcublasLt.so.12"], missing: 1 },
    Library { name: "cudnn", source: "cudnn", files: &["libcudnn.so.9"], missing: 1001 },
    Library { name: "curand", source: "curand", files: &["libcurand.so.10"], missing: 101 },
    Library { name: "nvrtc", source: "nvrtc", files: &["libnvrtc.so.13", "libnvrtc.so.12"], missing: 1 },
];

/// Writes the libraries for the functions that cudarc declares.
///
/// # Errors
/// If cudarc is not found, the tools `cc` and `ar` fail, or the processor is another than x86-64.
pub(crate) fn generate(folder: &Path) -> Result<(), String> {
    if !cfg!(all(target_arch = "x86_64", target_os = "linux")) {
        return Err(
            "libraries to link with are made for Linux on x86-64 only; install a toolkit".into()
        );
    }
    std::fs::create_dir_all(folder).map_err(|e| format!("{}: {e}", folder.display()))?;
    let sources = sources_of("cudarc")?;
    for library in LIBRARIES {
        let path = sources.join(library.source).join("sys/mod.rs");
        let text =
            std::fs::read_to_string(&path).map_err(|e| format!("{}: {e}", path.display()))?;
        write(library, &declared(&text), folder)?;
    }
    Ok(())
}

/// Where the sources of a crate lie that the workspace depends on.
pub(crate) fn sources_of(name: &str) -> Result<PathBuf, String> {
    let metadata = cargo_metadata::MetadataCommand::new()
        .current_dir(root())
        .features(cargo_metadata::CargoOpt::AllFeatures)
        .exec()
        .map_err(|e| format!("cargo metadata: {e}"))?;
    let package = metadata.packages.iter().find(|package| package.name.as_str() == name);
    let package = package.ok_or_else(|| format!("the workspace does not depend on {name}"))?;
    let folder = package.manifest_path.parent().ok_or_else(|| format!("{name} has no folder"))?;
    Ok(folder.join("src").into())
}

/// The functions in `extern` blocks of bindings: each is declared on a line of its own.
fn declared(bindings: &str) -> BTreeSet<String> {
    let names = bindings.lines().filter_map(|line| line.trim_start().strip_prefix("fn "));
    let names = names.filter_map(|rest| rest.split_once('(').map(|(name, _)| name));
    names
        .filter(|name| name.starts_with("cu") || name.starts_with("nv"))
        .map(str::to_owned)
        .collect()
}

/// Writes `libNAME.a`.
fn write(library: &Library, functions: &BTreeSet<String>, folder: &Path) -> Result<(), String> {
    let name = library.name;
    let archive = folder.join(format!("lib{name}.a"));
    let sources = [("S", entries(name, functions)), ("c", opener(library, functions))];
    let is_same = |(ending, text): &(&str, String)| {
        std::fs::read(folder.join(format!("{name}.{ending}")))
            .is_ok_and(|old| old == text.as_bytes())
    };
    if archive.is_file() && sources.iter().all(is_same) {
        return Ok(());
    }
    let mut objects = Vec::new();
    for (ending, text) in &sources {
        let source = folder.join(format!("{name}.{ending}"));
        std::fs::write(&source, text).map_err(|e| format!("{}: {e}", source.display()))?;
        let object = folder.join(format!("{name}_{ending}.o"));
        let mut cc = Command::new("cc");
        run(cc
            .args(["-O2", "-fPIC", "-Wall", "-Werror", "-c"])
            .arg(&source)
            .arg("-o")
            .arg(&object))?;
        objects.push(object);
    }
    let _ = std::fs::remove_file(&archive);
    run(Command::new("ar").arg("rcs").arg(&archive).args(objects))
}

/// The functions: each jumps to what its slot holds, or else has the slot filled first, with all registers
/// that hold arguments kept.
fn entries(library: &str, functions: &BTreeSet<String>) -> String {
    let mut text = String::from("    .text\n");
    for (i, name) in functions.iter().enumerate() {
        let _ = write!(
            text,
            "    .globl {name}\n    .type {name}, @function\n{name}:\n    movq {library}_slots+{}(%rip), %r11\n    \
             testq %r11, %r11\n    je 1f\n    jmp *%r11\n1:  pushq ${i}\n    jmp {library}_fill\n    .size {name}, .-{name}\n",
            8 * i
        );
    }
    let registers = ["rdi", "rsi", "rdx", "rcx", "r8", "r9", "rax"];
    let _ = writeln!(text, "{library}_fill:");
    for register in registers {
        let _ = writeln!(text, "    pushq %{register}");
    }
    text += "    subq $128, %rsp\n";
    for i in 0..8 {
        let _ = writeln!(text, "    movups %xmm{i}, {}(%rsp)", 16 * i);
    }
    let index = 128 + 8 * registers.len();
    let _ = write!(
        text,
        "    movq {index}(%rsp), %rdi\n    pushq %rbp\n    movq %rsp, %rbp\n    andq $-16, %rsp\n    call {library}_find\n    \
         movq %rbp, %rsp\n    popq %rbp\n    movq %rax, %r11\n"
    );
    for i in 0..8 {
        let _ = writeln!(text, "    movups {}(%rsp), %xmm{i}", 16 * i);
    }
    text += "    addq $128, %rsp\n";
    for register in registers.iter().rev() {
        let _ = writeln!(text, "    popq %{register}");
    }
    let _ = write!(
        text,
        "    addq $8, %rsp\n    jmp *%r11\n    .local {library}_slots\n    .comm {library}_slots, {}, 16\n    .data\n    \
         .globl {library}_slots_at\n{library}_slots_at:\n    .quad {library}_slots\n    \
         .section .note.GNU-stack,\"\",@progbits\n",
        8 * functions.len().max(1)
    );
    text
}

/// What finds a function in the real library, once.
fn opener(library: &Library, functions: &BTreeSet<String>) -> String {
    let Library { name, files, missing, .. } = library;
    let quoted = |names: &mut dyn Iterator<Item = &str>| {
        names.map(|name| format!("\"{name}\"")).collect::<Vec<_>>().join(", ")
    };
    let functions = quoted(&mut functions.iter().map(String::as_str).chain([""]));
    let files = quoted(&mut files.iter().copied());
    format!(
        r#"#include <dlfcn.h>
#include <pthread.h>
#include <stddef.h>
#include <string.h>

static const char *const functions[] = {{{functions}}};
extern void **{name}_slots_at;
static void *library;
static pthread_once_t once = PTHREAD_ONCE_INIT;

static void open_library(void) {{
    const char *const files[] = {{{files}}};
    for (size_t i = 0; i < sizeof files / sizeof *files && !library; i++)
        library = dlopen(files[i], RTLD_NOW | RTLD_GLOBAL);
}}

static long missing(void) {{ return {missing}; }}

/* functions that return a text, not a status */
static const char *unknown(void) {{ return "lib{name} is not installed"; }}

static int returns_text(const char *function) {{
    const char *const texts[] = {{"cublasGetStatusString", "cublasGetStatusName", "cudnnGetErrorString",
                                 "nvrtcGetErrorString"}};
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++)
        if (!strcmp(function, texts[i])) return 1;
    return 0;
}}

__attribute__((visibility("hidden"))) void *{name}_find(long i) {{
    pthread_once(&once, open_library);
    void *found = library ? dlsym(library, functions[i]) : NULL;
    if (!found) return returns_text(functions[i]) ? (void *)unknown : (void *)missing;
    __atomic_store_n(&{name}_slots_at[i], found, __ATOMIC_RELEASE);
    return found;
}}
"#
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A program that calls a function of libm through an entry, with arguments of both kinds, and one of a
    /// library that is missing.
    #[test]
    fn functions_are_found_with_their_arguments_or_answer_with_an_error() {
        if !cfg!(all(target_arch = "x86_64", target_os = "linux")) {
            return;
        }
        let folder = std::env::temp_dir().join(format!("limpid-link-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let of = |name, files, missing| Library { name, source: "", files, missing };
        let set = |names: &[&str]| names.iter().map(|n| (*n).to_owned()).collect::<BTreeSet<_>>();
        write(&of("there", &["libm.so.6"], 1), &set(&["frexp", "ldexp"]), &folder).unwrap();
        write(
            &of("lost", &["libnowhere.so.1"], 100),
            &set(&["cuInit", "cudnnGetErrorString"]),
            &folder,
        )
        .unwrap();
        let source = folder.join("main.c");
        let text = "extern double ldexp(double, int); extern int cuInit(unsigned);
            extern const char *cudnnGetErrorString(int);
            int main(void) {
                volatile double x = 0.75; volatile int n = 4;
                double first = ldexp(x, n), second = ldexp(x, n - 1);
                if (first != 12 || second != 6) return 1;
                if (cuInit(0) != 100 || cuInit(0) != 100) return 2;
                return cudnnGetErrorString(1)[3] == 'l' ? 0 : 3;
            }";
        std::fs::write(&source, text).unwrap();
        let program = folder.join("main");
        let mut cc = Command::new("cc");
        cc.arg("-fno-builtin")
            .arg(&source)
            .arg("-o")
            .arg(&program)
            .arg(format!("-L{}", folder.display()));
        run(cc.args(["-lthere", "-llost"])).unwrap();
        let status = Command::new(&program).status().unwrap();
        assert_eq!(status.code(), Some(0));
        std::fs::remove_dir_all(&folder).unwrap();
    }
}
