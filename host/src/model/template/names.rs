//! Names that mean something in templates: words in lists, a space between two.

/// What looks for words in a text.
pub(super) const MATCHERS: &str = "startswith endswith find rfind index rindex count split rsplit partition rpartition replace \
     removeprefix removesuffix";
/// Tests that compare.
pub(super) const COMPARING: &str =
    "eq equalto == ne != in sameas startingwith endingwith containing contains match";
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
pub(super) const INNER: &str = "mro func_globals func_code gi_frame gi_code cr_frame ag_frame f_globals f_builtins f_locals f_back \
     tb_frame im_func im_self format_map subclasses";

/// Is the name one of the list?
pub(super) fn among(list: &str, name: &str) -> bool {
    list.split(' ').any(|word| word == name)
}
