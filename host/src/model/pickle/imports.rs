//! Which functions a pickle may import: those that rebuild tensors, and nothing else.

/// What to think of an import.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    Harmless,
    /// Known to run code or to reach the system.
    Dangerous,
    /// Not on the list of what tensors need.
    Unknown,
}

const HARMLESS: [(&str, &[&str]); 11] = [
    (
        "torch._utils",
        &[
            "_rebuild_tensor",
            "_rebuild_tensor_v2",
            "_rebuild_tensor_v3",
            "_rebuild_parameter",
            "_rebuild_parameter_with_state",
            "_rebuild_qtensor",
            "_rebuild_sparse_tensor",
            "_rebuild_nested_tensor",
            "_rebuild_wrapper_subclass",
            "_rebuild_meta_tensor_no_storage",
            "_rebuild_device_tensor_from_numpy",
            "_rebuild_device_tensor_from_cpu_tensor",
        ],
    ),
    // Calls one of the above with what was saved of a tensor of another class.
    ("torch._tensor", &["_rebuild_from_type_v2"]),
    ("torch.serialization", &["_get_layout"]),
    ("torch.nn.parameter", &["Parameter"]),
    ("torch.storage", &["UntypedStorage", "TypedStorage"]),
    ("collections", &["OrderedDict", "Counter"]),
    ("_codecs", &["encode"]),
    ("numpy", &["dtype", "ndarray"]),
    ("numpy.core.multiarray", &["_reconstruct", "scalar"]),
    ("numpy._core.multiarray", &["_reconstruct", "scalar"]),
    (
        "builtins",
        &[
            "set",
            "frozenset",
            "dict",
            "list",
            "tuple",
            "int",
            "float",
            "bool",
            "complex",
            "bytearray",
            "slice",
        ],
    ),
];

/// What of the torch module names storages, number formats, ways to quantise, and places.
const TORCH: [&str; 51] = [
    "Size",
    "device",
    "Tensor",
    "FloatStorage",
    "DoubleStorage",
    "HalfStorage",
    "BFloat16Storage",
    "LongStorage",
    "IntStorage",
    "ShortStorage",
    "CharStorage",
    "ByteStorage",
    "BoolStorage",
    "ComplexFloatStorage",
    "ComplexDoubleStorage",
    "QInt8Storage",
    "QUInt8Storage",
    "QInt32Storage",
    "UntypedStorage",
    "float32",
    "float64",
    "float16",
    "bfloat16",
    "int64",
    "int32",
    "int16",
    "int8",
    "uint8",
    "bool",
    "complex64",
    "complex128",
    "uint16",
    "uint32",
    "uint64",
    "complex32",
    "float8_e4m3fn",
    "float8_e4m3fnuz",
    "float8_e5m2",
    "float8_e5m2fnuz",
    "float8_e8m0fnu",
    "float4_e2m1fn_x2",
    "qint8",
    "quint8",
    "qint32",
    "quint4x2",
    "quint2x4",
    "per_tensor_affine",
    "per_tensor_symmetric",
    "per_channel_affine",
    "per_channel_symmetric",
    "per_channel_affine_float_qparams",
];

/// Modules, with all below them, that reach the system, run code or load more of it.
const DANGEROUS: [&str; 60] = [
    "os",
    "posix",
    "nt",
    "subprocess",
    "sys",
    "pty",
    "socket",
    "shutil",
    "runpy",
    "importlib",
    "code",
    "codeop",
    "timeit",
    "pdb",
    "bdb",
    "profile",
    "cProfile",
    "pickle",
    "_pickle",
    "cPickle",
    "marshal",
    "types",
    "ctypes",
    "asyncio",
    "multiprocessing",
    "webbrowser",
    "requests",
    "urllib",
    "urllib2",
    "http",
    "httplib",
    "ftplib",
    "smtplib",
    "telnetlib",
    "operator",
    "_operator",
    "functools",
    "pip",
    "commands",
    "popen2",
    "tempfile",
    "pathlib",
    "linecache",
    "imaplib",
    "trace",
    "doctest",
    "idlelib",
    "lib2to3",
    "distutils",
    "setuptools",
    "ensurepip",
    "pydoc",
    "venv",
    "zipimport",
    "io",
    "_io",
    "platform",
    "signal",
    "threading",
    "pkgutil",
];
const DANGEROUS_TORCH: [&str; 4] = ["torch.hub", "torch.jit", "torch.package", "torch.utils"];

/// Modules that others import, so that they can be reached as `some.module.os.system`.
const WITHIN: [&str; 8] = ["os", "posix", "nt", "subprocess", "sys", "builtins", "importlib", "shutil"];

/// Judges `module.name`.
pub fn judge(import: &str) -> Verdict {
    // Nobody but who has something to hide writes a name in escapes, or puts it together.
    if !import.chars().all(|c| c.is_alphanumeric() || matches!(c, '_' | '.')) {
        return Verdict::Dangerous;
    }
    let Some((module, name)) = import.rsplit_once('.') else { return Verdict::Unknown };
    let listed = HARMLESS.iter().any(|(allowed, names)| *allowed == module && names.contains(&name));
    if listed || module == "torch" && TORCH.contains(&name) {
        return Verdict::Harmless;
    }
    if module == "__builtin__" {
        return judge(&format!("builtins.{name}"));
    }
    let root = module.split('.').next().unwrap_or(module);
    let below = |prefix: &str| {
        module.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
    };
    let load = module == "torch" && name == "load" || module == "torch.storage" && name == "_load_from_bytes";
    // What is left of the builtins runs code, opens files or reaches attributes.
    let dangerous = DANGEROUS.contains(&root)
        || root == "builtins"
        || load
        || module.split('.').any(|part| WITHIN.contains(&part))
        || DANGEROUS_TORCH.iter().any(|prefix| below(prefix));
    if dangerous { Verdict::Dangerous } else { Verdict::Unknown }
}
