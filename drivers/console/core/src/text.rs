//! Text of a bounded length in somebody's buffer. What does not fit is left out, so whoever must
//! not lose anything looks at [`Text::room`] first.

/// A text in the making.
pub struct Text<'a> {
    to: &'a mut [u8],
    len: usize,
}

impl<'a> Text<'a> {
    /// An empty text in a buffer.
    pub fn new(to: &'a mut [u8]) -> Text<'a> {
        Text { to, len: 0 }
    }

    /// Bytes that still fit.
    pub fn room(&self) -> usize {
        self.to.len() - self.len
    }

    /// Bytes that it has.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether it has none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Appends bytes.
    pub fn push(&mut self, bytes: &[u8]) {
        let places = self.to.iter_mut().skip(self.len);
        self.len += places.zip(bytes).map(|(place, byte)| *place = *byte).count();
    }

    /// Appends a number.
    pub fn number(&mut self, number: usize) {
        let mut digits = [0; 20];
        let (mut rest, mut first) = (number, digits.len());
        for place in digits.iter_mut().rev() {
            *place = b'0' + (rest % 10) as u8;
            rest /= 10;
            first -= 1;
            if rest == 0 {
                break;
            }
        }
        self.push(digits.get(first..).unwrap_or_default());
    }

    /// Appends text and spaces up to a width.
    pub fn padded(&mut self, text: &str, width: usize) {
        self.push(text.as_bytes());
        for _ in text.chars().count()..width {
            self.push(b" ");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Text;

    #[test]
    fn numbers_have_their_digits_and_text_its_width() {
        let mut buffer = [0; 40];
        let mut text = Text::new(&mut buffer);
        for number in [0, 7, 10, 987, usize::MAX] {
            text.number(number);
            text.push(b" ");
        }
        text.padded("ab", 4);
        let len = text.len();
        assert_eq!(&buffer[..len], b"0 7 10 987 18446744073709551615 ab  ");
    }

    #[test]
    fn what_does_not_fit_is_left_out() {
        let mut buffer = [0; 4];
        let mut text = Text::new(&mut buffer);
        text.push(b"abc");
        text.push(b"def");
        assert_eq!((text.len(), text.room()), (4, 0));
        assert_eq!(&buffer, b"abcd");
    }
}
