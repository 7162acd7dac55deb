//! A value of a GGUF file's metadata.

/// One value; arrays carry the number of their items' type, since they may be empty.
#[derive(Debug, Clone, PartialEq)]
#[allow(missing_docs, reason = "the names are those of the types")]
pub enum Value {
    U8(u8),
    I8(i8),
    U16(u16),
    I16(i16),
    U32(u32),
    I32(i32),
    F32(f32),
    Bool(bool),
    Text(String),
    Array(u32, Vec<Value>),
    U64(u64),
    I64(i64),
    F64(f64),
}

/// Keys and values in the order of the file.
pub type Metadata = Vec<(String, Value)>;

/// The number of the text type.
const TEXT: u32 = 8;
/// The number of the array type.
pub(super) const ARRAY: u32 = 9;

impl Value {
    /// An array of texts.
    #[must_use]
    pub fn texts(items: impl IntoIterator<Item = String>) -> Self {
        Self::Array(TEXT, items.into_iter().map(Self::Text).collect())
    }

    /// An array of i32, as per-layer sizes and token types are written.
    #[must_use]
    pub fn integers(items: impl IntoIterator<Item = i32>) -> Self {
        Self::Array(5, items.into_iter().map(Self::I32).collect())
    }

    /// An array of f32.
    #[must_use]
    pub fn numbers(items: impl IntoIterator<Item = f32>) -> Self {
        Self::Array(6, items.into_iter().map(Self::F32).collect())
    }

    /// A text.
    #[must_use]
    pub fn text(text: impl Into<String>) -> Self {
        Self::Text(text.into())
    }

    /// The text, if it is one.
    #[must_use]
    pub fn as_text(&self) -> Option<&str> {
        if let Self::Text(text) = self { Some(text) } else { None }
    }

    /// The number, if it is a whole one from zero on.
    #[must_use]
    pub fn as_size(&self) -> Option<u64> {
        match *self {
            Self::U8(v) => Some(v.into()),
            Self::I8(v) => v.try_into().ok(),
            Self::U16(v) => Some(v.into()),
            Self::I16(v) => v.try_into().ok(),
            Self::U32(v) => Some(v.into()),
            Self::I32(v) => v.try_into().ok(),
            Self::U64(v) => Some(v),
            Self::I64(v) => v.try_into().ok(),
            _ => None,
        }
    }

    /// The number, if it is one with a fraction.
    #[must_use]
    pub fn as_number(&self) -> Option<f64> {
        match *self {
            Self::F32(v) => Some(v.into()),
            Self::F64(v) => Some(v),
            _ => None,
        }
    }

    /// The number of this value's type.
    fn kind(&self) -> u32 {
        match self {
            Self::U8(_) => 0,
            Self::I8(_) => 1,
            Self::U16(_) => 2,
            Self::I16(_) => 3,
            Self::U32(_) => 4,
            Self::I32(_) => 5,
            Self::F32(_) => 6,
            Self::Bool(_) => 7,
            Self::Text(_) => TEXT,
            Self::Array(..) => ARRAY,
            Self::U64(_) => 10,
            Self::I64(_) => 11,
            Self::F64(_) => 12,
        }
    }

    /// Appends type and value.
    pub(super) fn write(&self, out: &mut Vec<u8>) {
        out.extend(self.kind().to_le_bytes());
        self.write_content(out);
    }

    fn write_content(&self, out: &mut Vec<u8>) {
        match self {
            Self::U8(v) => out.extend(v.to_le_bytes()),
            Self::I8(v) => out.extend(v.to_le_bytes()),
            Self::U16(v) => out.extend(v.to_le_bytes()),
            Self::I16(v) => out.extend(v.to_le_bytes()),
            Self::U32(v) => out.extend(v.to_le_bytes()),
            Self::I32(v) => out.extend(v.to_le_bytes()),
            Self::F32(v) => out.extend(v.to_le_bytes()),
            Self::Bool(v) => out.push(u8::from(*v)),
            Self::Text(v) => write_text(v, out),
            Self::U64(v) => out.extend(v.to_le_bytes()),
            Self::I64(v) => out.extend(v.to_le_bytes()),
            Self::F64(v) => out.extend(v.to_le_bytes()),
            Self::Array(kind, items) => {
                out.extend(kind.to_le_bytes());
                out.extend((items.len() as u64).to_le_bytes());
                items.iter().for_each(|item| item.write_content(out));
            }
        }
    }
}

/// Appends length and bytes.
pub(super) fn write_text(text: &str, out: &mut Vec<u8>) {
    out.extend((text.len() as u64).to_le_bytes());
    out.extend(text.as_bytes());
}
