//! Where a checkpoint keeps the numbers of its tensors, as the pickle names it.

use std::rc::Rc;

use super::walk::Item;

/// PyTorch's types of storages, and bytes of a number in each.
const TYPES: [(&str, u64); 16] = [
    ("FloatStorage", 4),
    ("DoubleStorage", 8),
    ("HalfStorage", 2),
    ("BFloat16Storage", 2),
    ("LongStorage", 8),
    ("IntStorage", 4),
    ("ShortStorage", 2),
    ("CharStorage", 1),
    ("ByteStorage", 1),
    ("BoolStorage", 1),
    ("ComplexFloatStorage", 8),
    ("ComplexDoubleStorage", 16),
    ("QInt8Storage", 1),
    ("QUInt8Storage", 1),
    ("QInt32Storage", 4),
    ("UntypedStorage", 1),
];

/// The key of a storage and its bytes, if the tuple names one:
/// `("storage", type, key, device, count of numbers, …)`.
pub(super) fn of(members: &[Item]) -> Option<(Rc<str>, Option<u64>)> {
    let [Item::Text(what), Item::Storage(kind), Item::Text(key), _, Item::Number(count), ..] = members else {
        return None;
    };
    if &**what != "storage" {
        return None;
    }
    let kind = kind.rsplit('.').next().unwrap_or_default();
    let width = TYPES.iter().find(|(name, _)| *name == kind).map(|(_, width)| *width);
    Some((Rc::clone(key), width.map(|width| count.saturating_mul(width))))
}
