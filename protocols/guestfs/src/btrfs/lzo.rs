//! LZO1X, as Linux describes it in its documentation of the stream format.

/// Takes apart one stream; `None` if it is damaged or has more than `most` bytes.
pub(super) fn decompress(input: &[u8], most: usize) -> Option<Vec<u8>> {
    let mut stream = Stream {
        input,
        at: 0,
        output: Vec::with_capacity(most.min(CAPACITY_MAX)),
        most,
    };
    // How many literals came with the last instruction; 4 stands for more.
    let mut state = 0;
    if *input.first()? > 17 {
        stream.at = 1;
        let count = usize::from(*input.first()?) - 17;
        stream.literals(count)?;
        state = count.min(4);
    }
    loop {
        let code = usize::from(stream.byte()?);
        let (length, distance, next) = match code {
            0..16 if state == 0 => {
                let count = stream.length(code, 15)? + 3;
                stream.literals(count)?;
                state = 4;
                continue;
            }
            0..16 => {
                let far = usize::from(stream.byte()?) << 2 | code >> 2;
                match state {
                    4 => (3, far + 2049, code & 3),
                    _ => (2, far + 1, code & 3),
                }
            }
            16..32 => {
                let length = stream.length(code & 7, 7)? + 2;
                let word = stream.word()?;
                let distance = 16384 + ((code & 8) << 11) + (word >> 2);
                if distance == 16384 {
                    return (length == 3).then_some(stream.output);
                }
                (length, distance, word & 3)
            }
            32..64 => {
                let length = stream.length(code & 31, 31)? + 2;
                let word = stream.word()?;
                (length, (word >> 2) + 1, word & 3)
            }
            64..128 => {
                let far = usize::from(stream.byte()?) << 3 | code >> 2 & 7;
                ((code >> 5 & 1) + 3, far + 1, code & 3)
            }
            _ => {
                let far = usize::from(stream.byte()?) << 3 | code >> 2 & 7;
                ((code >> 5 & 3) + 5, far + 1, code & 3)
            }
        };
        stream.repeat(length, distance)?;
        stream.literals(next)?;
        state = next;
    }
}

struct Stream<'a> {
    input: &'a [u8],
    at: usize,
    output: Vec<u8>,
    most: usize,
}

impl Stream<'_> {
    fn byte(&mut self) -> Option<u8> {
        let byte = *self.input.get(self.at)?;
        self.at += 1;
        Some(byte)
    }

    fn word(&mut self) -> Option<usize> {
        let low = self.byte()?;
        Some(usize::from(u16::from_le_bytes([low, self.byte()?])))
    }

    /// A length in an instruction, which goes on in further bytes if it is zero.
    fn length(&mut self, given: usize, base: usize) -> Option<usize> {
        if given != 0 {
            return Some(given);
        }
        let mut length = base;
        loop {
            match self.byte()? {
                0 => length += 255,
                last => return Some(length + usize::from(last)),
            }
        }
    }

    fn literals(&mut self, count: usize) -> Option<()> {
        let literals = self.input.get(self.at..self.at.checked_add(count)?)?;
        if literals.len() > self.most - self.output.len() {
            return None;
        }
        self.output.extend_from_slice(literals);
        self.at += count;
        Some(())
    }

    fn repeat(&mut self, length: usize, distance: usize) -> Option<()> {
        if length > self.most - self.output.len() {
            return None;
        }
        let start = self.output.len().checked_sub(distance)?;
        // What is repeated may reach into what is being made.
        for at in start..start + length {
            let byte = *self.output.get(at)?;
            self.output.push(byte);
        }
        Some(())
    }
}

const CAPACITY_MAX: usize = 64 << 10;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instructions_do_what_they_say() {
        // Four literals, a repetition of six bytes from four before, the end.
        let stream = [21, b'a', b'b', b'c', b'd', 0b1010_1100, 0, 17, 0, 0];
        assert_eq!(decompress(&stream, 100).unwrap(), b"abcdabcdab");
        assert_eq!(decompress(&stream, 10).unwrap().len(), 10);
        assert_eq!(decompress(&stream, 9), None);
        // Nothing is before the beginning, and what is cut has no end.
        let mut before = stream;
        before[6] = 1;
        assert_eq!(decompress(&before, 100), None);
        for length in 0..stream.len() {
            assert_eq!(decompress(&stream[..length], 100), None, "{length}");
        }
        // Twenty literals in a run, then the end.
        let mut run = vec![0, 2];
        run.extend(0..20);
        run.extend([17, 0, 0]);
        assert_eq!(decompress(&run, 20).unwrap(), (0..20).collect::<Vec<u8>>());
    }
}
