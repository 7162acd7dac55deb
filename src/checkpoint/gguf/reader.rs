//! Reading a GGUF file by memory map. Every length is checked against the file before it is believed.

use super::value::{ARRAY, Value};
use super::{ALIGNMENT, ALIGNMENT_KEY, MAGIC, STORAGES, VERSION, stored_bytes};
use crate::checkpoint::stored::Storage;
use crate::disk::files;
use crate::error::{Error, Result};
use crate::tensor::SharedBytes;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// No vocabulary or list of merges is longer.
const MAXIMUM_ITEMS: usize = 1 << 24;

/// A tensor of a file.
pub struct GgufTensor {
    /// Its name.
    pub name: String,
    /// `[rows, columns]`, or `[columns]`.
    pub shape: Vec<usize>,
    /// How its numbers are stored.
    pub storage: Storage,
    /// Its bytes; none where the storage is not known here.
    pub bytes: SharedBytes,
}

/// A mapped GGUF file.
pub struct GgufFile {
    /// Where it lies.
    pub path: PathBuf,
    /// The metadata.
    pub metadata: BTreeMap<String, Value>,
    /// The tensors, in the file's order.
    pub tensors: Vec<GgufTensor>,
    /// Bytes of the whole file.
    pub length: u64,
}

impl GgufFile {
    /// Maps a file and reads metadata and headers.
    pub fn open(path: &Path) -> Result<Self> {
        let map = Arc::new(files::map(path)?);
        let wrong = |reason: String| Error::file(path, format!("is not a complete GGUF file ({reason}); is the copy finished?"));
        let mut cursor = Cursor { bytes: &map, position: 0 };
        let (metadata, headers) = cursor.head().map_err(wrong)?;
        let alignment = match metadata.get(ALIGNMENT_KEY) {
            None => ALIGNMENT,
            Some(value) => {
                value.as_size().filter(|a| a.is_power_of_two() && *a <= 1 << 20).ok_or_else(|| wrong("odd alignment".into()))? as usize
            }
        };
        let data_start = cursor.position.next_multiple_of(alignment);
        let mut tensors = Vec::with_capacity(headers.len());
        // Where the next tensor begins; unknown behind one whose size is.
        let mut expected = Some(0);
        for Header { name, shape, kind, offset } in headers {
            if expected.is_some_and(|expected| expected != offset) || offset % alignment as u64 != 0 {
                return Err(wrong(format!("tensor `{name}` does not begin where the one before it ends, but at {offset}")));
            }
            expected = None;
            let storage = STORAGES.iter().find(|(known, _)| *known == kind);
            let storage = storage.map_or_else(|| Storage::Other(format!("GGML type {kind}")), |(_, storage)| storage.clone());
            let mut range = 0..0;
            if !matches!(storage, Storage::Other(_)) {
                let columns = shape.last().copied().unwrap_or(1);
                let rows = if shape.len() == 1 { 1 } else { shape[0] };
                let length = stored_bytes(&storage, rows, columns);
                let start = usize::try_from(offset).ok().and_then(|o| data_start.checked_add(o));
                let end = start.zip(length).and_then(|(s, l)| s.checked_add(l)).filter(|&e| e <= map.len());
                range = start.zip(end).map(|(s, e)| s..e).ok_or_else(|| wrong(format!("tensor `{name}` reaches beyond its end")))?;
                expected = Some((range.end - data_start).next_multiple_of(alignment) as u64);
            }
            tensors.push(GgufTensor { name, shape, storage, bytes: SharedBytes::new(map.clone(), range) });
        }
        Ok(Self { path: path.to_owned(), metadata, tensors, length: map.len() as u64 })
    }

    /// The value of a key.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.metadata.get(key)
    }

    /// An error about this file.
    pub fn error(&self, message: impl std::fmt::Display) -> Error {
        Error::file(&self.path, message.to_string())
    }
}

struct Header {
    name: String,
    shape: Vec<usize>,
    kind: u32,
    offset: u64,
}

/// What is wrong with a file.
type Parsed<T> = std::result::Result<T, String>;

/// Reads little-endian values one after the other.
struct Cursor<'a> {
    bytes: &'a [u8],
    position: usize,
}

impl Cursor<'_> {
    fn take(&mut self, count: usize) -> Parsed<&[u8]> {
        let end = self.position.checked_add(count).filter(|&end| end <= self.bytes.len());
        let end = end.ok_or_else(|| format!("it ends within its header, at byte {}", self.bytes.len()))?;
        let taken = &self.bytes[self.position..end];
        self.position = end;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Parsed<[u8; N]> {
        Ok(self.take(N)?.try_into().expect("so many were taken"))
    }

    fn u32(&mut self) -> Parsed<u32> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    fn u64(&mut self) -> Parsed<u64> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    /// A count of things of at least `size` bytes each, which must fit into what is left.
    fn count(&mut self, size: usize) -> Parsed<usize> {
        let count = self.u64()?;
        let left = (self.bytes.len() - self.position) / size;
        usize::try_from(count).ok().filter(|&count| count <= left).ok_or_else(|| format!("a count of {count} is more than it can hold"))
    }

    fn text(&mut self) -> Parsed<String> {
        let length = self.count(1)?;
        String::from_utf8(self.take(length)?.to_vec()).map_err(|_| "a text is not UTF-8".into())
    }

    fn value(&mut self, kind: u32) -> Parsed<Value> {
        Ok(match kind {
            0 => Value::U8(u8::from_le_bytes(self.array()?)),
            1 => Value::I8(i8::from_le_bytes(self.array()?)),
            2 => Value::U16(u16::from_le_bytes(self.array()?)),
            3 => Value::I16(i16::from_le_bytes(self.array()?)),
            4 => Value::U32(self.u32()?),
            5 => Value::I32(i32::from_le_bytes(self.array()?)),
            6 => Value::F32(f32::from_le_bytes(self.array()?)),
            7 => Value::Bool(self.array::<1>()?[0] != 0),
            8 => Value::Text(self.text()?),
            ARRAY => {
                let kind = self.u32()?;
                if kind == ARRAY {
                    return Err("an array of arrays".into());
                }
                let count = self.count(1)?;
                if count > MAXIMUM_ITEMS {
                    return Err(format!("an array of {count} values"));
                }
                Value::Array(kind, (0..count).map(|_| self.value(kind)).collect::<Parsed<_>>()?)
            }
            10 => Value::U64(self.u64()?),
            11 => Value::I64(i64::from_le_bytes(self.array()?)),
            12 => Value::F64(f64::from_le_bytes(self.array()?)),
            other => return Err(format!("a value of the unknown type {other}")),
        })
    }

    fn head(&mut self) -> Parsed<(BTreeMap<String, Value>, Vec<Header>)> {
        if self.array()? != MAGIC {
            return Err("it does not begin with GGUF".into());
        }
        let version = self.u32()?;
        if version != VERSION {
            return Err(format!("it has version {version}; this program reads {VERSION}"));
        }
        let tensors = self.count(24)?;
        let entries = self.count(12)?;
        let mut metadata = BTreeMap::new();
        for _ in 0..entries {
            let key = self.text()?;
            let kind = self.u32()?;
            let value = self.value(kind)?;
            if metadata.insert(key.clone(), value).is_some() {
                return Err(format!("the key `{key}` is there twice"));
            }
        }
        let headers = (0..tensors).map(|_| self.header()).collect::<Parsed<_>>()?;
        Ok((metadata, headers))
    }

    fn header(&mut self) -> Parsed<Header> {
        let name = self.text()?;
        let dimensions = self.u32()?;
        if !(1..=4).contains(&dimensions) {
            return Err(format!("tensor `{name}` has {dimensions} dimensions"));
        }
        let mut shape = (0..dimensions)
            .map(|_| usize::try_from(self.u64()?).map_err(|_| format!("tensor `{name}` is too large")))
            .collect::<Parsed<Vec<usize>>>()?;
        if shape.contains(&0) {
            return Err(format!("tensor `{name}` is empty"));
        }
        shape.reverse();
        // Only vectors and matrices are used here; what has more dimensions is a matrix of all rows.
        if shape.len() > 2 {
            let rows = shape[..shape.len() - 1].iter().try_fold(1usize, |product, &size| product.checked_mul(size));
            shape = vec![rows.ok_or_else(|| format!("tensor `{name}` is too large"))?, shape[shape.len() - 1]];
        }
        Ok(Header { name, shape, kind: self.u32()?, offset: self.u64()? })
    }
}
