//! Names that mean something in templates: words in lists, a space between two.

/// What looks for words in a text.
pub(super) const MATCHERS: &str = "startswith endswith find rfind index rindex count split rsplit partition rpartition replace \
     removeprefix removesuffix strip lstrip rstrip";
/// Tests that compare.
pub(super) const COMPARING: &str =
    "eq equalto == ne != in sameas startingwith endingwith containing contains match";
/// Parts of a message, and what they may be called.
pub(super) const PARTS: &str = "type role name id text content function tool_calls arguments parameters image image_url \
     input_image audio input_audio audio_url video video_url input_video document file data thinking reasoning";
/// Filters and methods that look for their arguments, or choose by them, and print none of them.
pub(super) const LOOKING: &str = "startswith endswith find rfind index rindex count split rsplit partition rpartition \
     removeprefix removesuffix strip lstrip rstrip select reject selectattr rejectattr groupby sort unique";
/// What gives the words of everything that is in a message.
pub(super) const SPEAKING: &str =
    "string tojson join pprint xmlattr urlencode list format values items dictsort";
/// Control words that models with switchable thinking know.
pub(super) const SWITCHES: &str = "/think /no_think /nothink /no-think /system_override";
/// Where the words of a message are.
pub(super) const CONTENT: &str = "content text reasoning_content thinking arguments parts";
/// What a message or a part of one carries besides words.
pub(super) const STRUCTURE: &str = "type role name id tool_call_id tool_calls function mime_type";
/// Filters of Jinja, and those that runtimes add.
pub(super) const FILTERS: &str = "abs batch capitalize center count d default dictsort e escape filesizeformat first \
     float forceescape format groupby indent int items join last length list lower map max min pprint random reject \
     rejectattr replace reverse round safe select selectattr slice sort string striptags sum title tojson trim \
     truncate unique upper urlencode urlize wordcount wordwrap xmlattr fromjson from_json to_json split keys values \
     strip startswith endswith";
/// What runtimes offer.
pub(super) const FUNCTIONS: &str =
    "range namespace dict raise_exception strftime_now cycler joiner caller loop super tojson";
/// Names that lead out of the language wherever they are offered.
pub(super) const OUTSIDE: &str = "eval exec open getattr setattr delattr compile globals locals vars os sys subprocess importlib \
     builtins lipsum url_for get_flashed_messages popen system input breakpoint help self";
/// Attributes by which a value leads to the interpreter's own.
pub(super) const HIDDEN: &str = "mro func_globals func_code gi_frame gi_code cr_frame ag_frame f_globals f_builtins f_locals f_back \
     tb_frame im_func im_self format_map subclasses";

/// Methods of texts, lists and mappings, and of loops.
pub(super) const METHODS: &str = "capitalize casefold center count encode decode endswith expandtabs find format index isalnum isalpha \
     isascii isdecimal isdigit isidentifier islower isnumeric isprintable isspace istitle isupper join ljust lower \
     lstrip partition removeprefix removesuffix replace rfind rindex rjust rpartition rsplit rstrip split splitlines \
     startswith strip swapcase title translate upper zfill append extend insert pop remove clear copy reverse sort \
     get items keys values update setdefault popitem cycle changed next reset";
/// Methods that add to what they are called on.
pub(super) const MUTATING: &str = "append extend insert update setdefault";
/// Filters and methods that give numbers, or yes and no.
pub(super) const NUMBERS: &str = "length count int float abs round wordcount find rfind index rindex startswith endswith isalnum \
     isalpha isascii isdecimal isdigit isidentifier islower isnumeric isprintable isspace istitle isupper changed";
/// Filters and methods that give what is in a list or a mapping.
pub(super) const CHOOSING: &str = "first last list sort unique select reject selectattr rejectattr dictsort items keys values min max \
     random groupby popitem copy";
/// Those that may give their arguments, too.
pub(super) const KEEPING: &str = "default d batch slice sum next cycle";
/// Filters and methods that give parts of a text, or write it otherwise, and nothing of their
/// arguments.
pub(super) const CUTTING: &str = "split rsplit splitlines strip lstrip rstrip partition rpartition removeprefix removesuffix trim \
     lower upper title capitalize casefold swapcase string safe striptags tojson to_json fromjson from_json";

/// What a loop counts.
pub(super) const COUNTERS: &str = "index index0 revindex revindex0 length depth depth0";

/// Which argument of a filter names an attribute; of `map`, another filter.
pub(super) fn attribute_place(filter: &str) -> Option<usize> {
    match filter {
        "map" | "selectattr" | "rejectattr" | "groupby" | "sum" => Some(0),
        "join" | "unique" | "min" | "max" => Some(1),
        "sort" => Some(2),
        _ => None,
    }
}

/// Is the name one of the list?
pub(super) fn among(list: &str, name: &str) -> bool {
    list.split(' ').any(|word| word == name)
}
