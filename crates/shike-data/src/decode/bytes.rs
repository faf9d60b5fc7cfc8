//! The bytes of a file in memory, for zune-jpeg.

use zune_jpeg::zune_core::bytestream::{ZByteIoError, ZByteReaderTrait, ZSeekFrom};

/// What zune-core's `ZCursor` does, without the way through `std::io::Read`: there, each of the four
/// bytes that the decoder takes at a time costs a call, which is 4 % of the time of a photograph.
pub(super) struct Bytes<'a> {
    bytes: &'a [u8],
    /// From the start; behind the end there is nothing to read.
    position: usize,
}

impl<'a> Bytes<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, position: 0 }
    }

    #[inline(always)]
    fn rest(&self) -> &'a [u8] {
        self.bytes.get(self.position..).unwrap_or_default()
    }
}

impl ZByteReaderTrait for Bytes<'_> {
    #[inline(always)]
    fn read_byte_no_error(&mut self) -> u8 {
        let Some(&byte) = self.bytes.get(self.position) else {
            return 0;
        };
        self.position += 1;
        byte
    }

    #[inline(always)]
    fn read_exact_bytes(&mut self, buf: &mut [u8]) -> Result<(), ZByteIoError> {
        self.peek_exact_bytes(buf)?;
        self.position += buf.len();
        Ok(())
    }

    #[inline(always)]
    fn read_bytes(&mut self, buf: &mut [u8]) -> Result<usize, ZByteIoError> {
        let read = self.peek_bytes(buf)?;
        self.position += read;
        Ok(read)
    }

    #[inline(always)]
    fn peek_bytes(&mut self, buf: &mut [u8]) -> Result<usize, ZByteIoError> {
        let rest = self.rest();
        let there = rest.len().min(buf.len());
        buf[..there].copy_from_slice(&rest[..there]);
        Ok(there)
    }

    #[inline(always)]
    fn peek_exact_bytes(&mut self, buf: &mut [u8]) -> Result<(), ZByteIoError> {
        // The length is the buffer's, which the caller's code knows: a load instead of a copy.
        match self.rest().get(..buf.len()) {
            Some(found) => {
                buf.copy_from_slice(found);
                Ok(())
            }
            None => Err(ZByteIoError::NotEnoughBytes(self.rest().len(), buf.len())),
        }
    }

    #[inline(always)]
    fn z_seek(&mut self, from: ZSeekFrom) -> Result<u64, ZByteIoError> {
        let position = match from {
            ZSeekFrom::Start(position) => usize::try_from(position).ok(),
            ZSeekFrom::End(offset) => seek(self.bytes.len(), offset),
            ZSeekFrom::Current(offset) => seek(self.position, offset),
        };
        self.position = position.ok_or(ZByteIoError::SeekError("outside of the file"))?;
        Ok(self.position as u64)
    }

    #[inline(always)]
    fn is_eof(&mut self) -> Result<bool, ZByteIoError> {
        Ok(self.position >= self.bytes.len())
    }

    #[inline(always)]
    fn z_position(&mut self) -> Result<u64, ZByteIoError> {
        Ok(self.position as u64)
    }

    fn read_remaining(&mut self, sink: &mut Vec<u8>) -> Result<usize, ZByteIoError> {
        let rest = self.rest();
        sink.extend_from_slice(rest);
        self.position += rest.len();
        Ok(rest.len())
    }
}

#[inline(always)]
fn seek(base: usize, offset: i64) -> Option<usize> {
    base.checked_add_signed(isize::try_from(offset).ok()?)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use proptest::prelude::*;
    use zune_jpeg::zune_core::bytestream::ZCursor;

    use super::*;

    #[derive(Clone, Debug)]
    enum Call {
        Byte,
        Exact(usize),
        Read(usize),
        Peek(usize),
        PeekExact(usize),
        Start(u64),
        End(i64),
        Current(i64),
        Remaining,
    }

    fn call() -> impl Strategy<Value = Call> {
        prop_oneof![
            Just(Call::Byte),
            (0..6usize).prop_map(Call::Exact),
            (0..6usize).prop_map(Call::Read),
            (0..6usize).prop_map(Call::Peek),
            (0..6usize).prop_map(Call::PeekExact),
            (0..24u64).prop_map(Call::Start),
            (-24..6i64).prop_map(Call::End),
            (-24..6i64).prop_map(Call::Current),
            Just(Call::Remaining),
        ]
    }

    /// What a call gives, whether the end is reached, and where the reader then stands.
    fn answer(reader: &mut impl ZByteReaderTrait, call: &Call) -> (String, bool, u64) {
        let with = |length: usize, f: &mut dyn FnMut(&mut [u8]) -> Option<usize>| {
            let mut buffer = vec![0; length];
            match f(&mut buffer) {
                Some(read) => format!("{:?}", &buffer[..read]),
                None => "error".into(),
            }
        };
        let said = match *call {
            Call::Byte => reader.read_byte_no_error().to_string(),
            Call::Exact(n) => with(n, &mut |b| reader.read_exact_bytes(b).ok().map(|()| n)),
            Call::Read(n) => with(n, &mut |b| reader.read_bytes(b).ok()),
            Call::Peek(n) => with(n, &mut |b| reader.peek_bytes(b).ok()),
            Call::PeekExact(n) => with(n, &mut |b| reader.peek_exact_bytes(b).ok().map(|()| n)),
            Call::Start(n) => format!("{:?}", reader.z_seek(ZSeekFrom::Start(n)).ok()),
            Call::End(n) => format!("{:?}", reader.z_seek(ZSeekFrom::End(n)).ok()),
            Call::Current(n) => format!("{:?}", reader.z_seek(ZSeekFrom::Current(n)).ok()),
            Call::Remaining => {
                let mut sink = vec![];
                let read = reader.read_remaining(&mut sink).ok();
                format!("{read:?} {sink:?}")
            }
        };
        (said, reader.is_eof().unwrap(), reader.z_position().unwrap())
    }

    proptest! {
        #[test]
        fn it_answers_as_zune_cores_own_reader_does(
            bytes in prop::collection::vec(any::<u8>(), 0..20),
            calls in prop::collection::vec(call(), 0..30),
        ) {
            let mut ours = Bytes::new(&bytes);
            let mut theirs = std::io::Cursor::new(&bytes);
            let mut cursor = ZCursor::new(&bytes);
            for call in &calls {
                let said = answer(&mut ours, call);
                prop_assert_eq!(&said, &answer(&mut theirs, call), "{:?}", call);
                // `ZCursor` panics over these where it stands behind the end.
                let behind = said.2 > bytes.len() as u64;
                if behind {
                    break;
                }
                prop_assert_eq!(&said, &answer(&mut cursor, call), "{:?}", call);
            }
        }
    }
}
