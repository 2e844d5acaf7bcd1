//! The stamp of a parquet file of ours: a digest of the whole file that the file itself carries.
//!
//! Parquet pages have no checksums, so a flipped bit reads as another value. The writer puts a pair into the file's
//! key-value metadata, [`blank`]: `tftctl.stamp` with 72 zeros. [`seal`] then works on the finished file, whoever
//! wrote it: it finds the zeros in the footer and replaces them by the sha256 of the file as it is (64 hexadecimal
//! digits) and the crc32 of its footer (8). [`check`] puts the zeros back in thought and compares. The second number
//! locates one flipped bit of the footer, which [`mended_end`] turns back: a footer is small, but without it no row of
//! the file can be read.
//!
//! A file without a stamp is not damaged, it is from elsewhere (or older); who wrote it knows whether it should have one.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::Path;

use anyhow::{Context, Result, ensure};
use sha2::{Digest, Sha256};

use crate::fsx;

/// The name of the pair.
pub(in crate::buffer) const KEY: &str = "tftctl.stamp";

const N_SHA_DIGITS: usize = 64;
const N_DIGITS: usize = N_SHA_DIGITS + 8;
/// How the footer's encoding goes on after the key: a text of 72 bytes.
const VALUE_HEAD: [u8; 2] = [0x18, N_DIGITS as u8];
/// Length of the footer and the magic, at the end of every parquet file.
const TRAILER_BYTES: u64 = 8;
const MAGIC: [u8; 4] = *b"PAR1";

/// The pair that a writer puts into the metadata of a file that is to be stamped.
pub(in crate::buffer) fn blank() -> (String, String) {
    (KEY.to_owned(), "0".repeat(N_DIGITS))
}

/// What a stamp says of its file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::buffer) enum Stamped {
    /// Every byte is what was sealed.
    Whole,
    /// Some byte is not.
    Damaged,
    /// It has none.
    Never,
}

/// The end of a parquet file.
struct Footer {
    /// Where it begins in the file.
    start: u64,
    bytes: Vec<u8>,
    /// What follows it in the file.
    trailer: Vec<u8>,
    /// Where the digits lie in `bytes`.
    digits_at: Option<usize>,
}

impl Footer {
    /// The footer as the trailer delimits it; `None` where that cannot be.
    fn read(file: &mut (impl Read + Seek)) -> Result<Option<Self>> {
        let size_bytes = file.seek(SeekFrom::End(0))?;
        if size_bytes < 4 + TRAILER_BYTES {
            return Ok(None);
        }
        let trailer = read_at(file, size_bytes - TRAILER_BYTES, TRAILER_BYTES as usize)?;
        let n_bytes = u32::from_le_bytes(trailer[..4].try_into().expect("four bytes"));
        Self::of_length(file, size_bytes, n_bytes)
    }

    fn of_length(file: &mut (impl Read + Seek), size_bytes: u64, n_bytes: u32) -> Result<Option<Self>> {
        let Some(start) = size_bytes.checked_sub(TRAILER_BYTES + u64::from(n_bytes)) else { return Ok(None) };
        let bytes = read_at(file, start, n_bytes as usize)?;
        let trailer = read_at(file, size_bytes - TRAILER_BYTES, TRAILER_BYTES as usize)?;
        let digits_at = find_digits(&bytes);
        Ok(Some(Self { start, bytes, trailer, digits_at }))
    }

    fn digits(&self) -> Option<&[u8]> {
        self.digits_at.map(|at| &self.bytes[at..at + N_DIGITS])
    }

    /// The crc32 with zeros for digits.
    fn crc(&self) -> u32 {
        let mut bytes = self.bytes.clone();
        if let Some(at) = self.digits_at {
            bytes[at..at + N_DIGITS].fill(b'0');
        }
        crc32fast::hash(&bytes)
    }
}

/// Where the digits begin: behind the last place where the pair's key and the head of its value stand.
fn find_digits(footer: &[u8]) -> Option<usize> {
    let head = [KEY.as_bytes(), &VALUE_HEAD].concat();
    let at = footer.windows(head.len()).rposition(|window| window == head)? + head.len();
    (at + N_DIGITS <= footer.len()).then_some(at)
}

fn read_at(file: &mut (impl Read + Seek), start: u64, n_bytes: usize) -> Result<Vec<u8>> {
    let mut bytes = vec![0; n_bytes];
    file.seek(SeekFrom::Start(start))?;
    file.read_exact(&mut bytes)?;
    Ok(bytes)
}

/// Stamps a finished parquet file that was written with [`blank`]; it is not synced.
///
/// - Errors: the file cannot be read or written, or has no blank stamp.
pub(in crate::buffer) fn seal(file: &mut (impl Read + Write + Seek)) -> Result<()> {
    let footer = Footer::read(file)?.context("stamp it: it has no footer")?;
    let at = footer.digits_at.context("stamp it: its writer left no room for a stamp")?;
    ensure!(footer.digits() == Some(&[b'0'; N_DIGITS]), "stamp it: it is stamped already");
    let digits = digits_of(file, &footer, &footer.trailer)?;
    file.seek(SeekFrom::Start(footer.start + at as u64))?;
    file.write_all(digits.as_bytes())?;
    file.seek(SeekFrom::End(0))?;
    Ok(())
}

/// Whether the file at `path` is the one that was stamped.
///
/// - Errors: it cannot be read; it is named. A damaged footer is no error: where no stamp can be found in it, the answer
///   is [`Stamped::Never`], and the footer's reader says what is wrong.
pub(in crate::buffer) fn check(path: &Path) -> Result<Stamped> {
    Ok(check_and_digest(path)?.map_or(Stamped::Never, |(stamped, _)| stamped))
}

/// [`check`] with the sha256 of the file as it lies there, in hexadecimal: its bytes are read and hashed once for both.
/// `None`: it has no stamp, and was not hashed.
pub(in crate::buffer) fn check_and_digest(path: &Path) -> Result<Option<(Stamped, String)>> {
    let check = || -> Result<Option<(Stamped, String)>> {
        let mut file = File::open(path)?;
        let Some(footer) = Footer::read(&mut file)? else { return Ok(None) };
        let Some(found) = footer.digits() else { return Ok(None) };
        let pages = hash_of_pages(&mut file, &footer)?;
        let is_whole = digits_behind(pages.clone(), &footer, &footer.trailer).as_bytes() == found;
        let whole_file = pages.chain_update(&footer.bytes).chain_update(&footer.trailer).finalize();
        let stamped = if is_whole { Stamped::Whole } else { Stamped::Damaged };
        Ok(Some((stamped, fsx::hex(&whole_file))))
    };
    check().with_context(|| format!("read {}", path.display()))
}

/// Whether the footer of the file at `path` is the one that was sealed, whatever became of the pages.
pub(in crate::buffer) fn is_footer_whole(path: &Path) -> Result<bool> {
    let check = || -> Result<bool> {
        let Some(footer) = Footer::read(&mut File::open(path)?)? else { return Ok(false) };
        let said = footer.digits().map(|digits| &digits[N_SHA_DIGITS..]);
        Ok(said == Some(format!("{:08x}", footer.crc()).as_bytes()))
    };
    check().with_context(|| format!("read {}", path.display()))
}

/// The digits that belong into a file with this footer.
fn digits_of(file: &mut (impl Read + Seek), footer: &Footer, trailer: &[u8]) -> Result<String> {
    Ok(digits_behind(hash_of_pages(file, footer)?, footer, trailer))
}

/// The digits that belong into a file with this footer, where `pages` is the hash of what lies before it.
fn digits_behind(pages: Sha256, footer: &Footer, trailer: &[u8]) -> String {
    let mut bytes = footer.bytes.clone();
    if let Some(at) = footer.digits_at {
        bytes[at..at + N_DIGITS].fill(b'0');
    }
    let sha256 = fsx::hex(&pages.chain_update(&bytes).chain_update(trailer).finalize());
    format!("{sha256}{:08x}", footer.crc())
}

/// The hash of the file up to its footer, to be gone on with.
fn hash_of_pages(file: &mut (impl Read + Seek), footer: &Footer) -> Result<Sha256> {
    let mut hasher = Sha256::new();
    file.seek(SeekFrom::Start(0))?;
    let mut rest = footer.start;
    let mut chunk = vec![0; 1 << 18];
    while rest > 0 {
        let n_wanted = usize::try_from(rest).unwrap_or(usize::MAX).min(chunk.len());
        file.read_exact(&mut chunk[..n_wanted])?;
        hasher.update(&chunk[..n_wanted]);
        rest -= n_wanted as u64;
    }
    Ok(hasher)
}

/// The end of a file whose footer or trailer had one bit flipped, with that bit turned back: where it begins, and its bytes.
///
/// The footer's crc32 says which bit it is, and the sha256 whether it was that. `None`: it was something else.
pub(in crate::buffer) fn mended_end(file: &mut (impl Read + Seek)) -> Result<Option<(u64, Vec<u8>)>> {
    let size_bytes = file.seek(SeekFrom::End(0))?;
    if size_bytes < 4 + TRAILER_BYTES {
        return Ok(None);
    }
    let trailer = read_at(file, size_bytes - TRAILER_BYTES, TRAILER_BYTES as usize)?;
    let said = u32::from_le_bytes(trailer[..4].try_into().expect("four bytes"));
    if let Some(mut footer) = Footer::of_length(file, size_bytes, said)?
        && mend_digits(file, &mut footer)?
    {
        return Ok(Some((footer.start, [footer.bytes, trailer].concat())));
    }
    for n_bytes in std::iter::once(said).chain((0..32).map(|bit| said ^ (1 << bit))) {
        let Some(mut footer) = Footer::of_length(file, size_bytes, n_bytes)? else { continue };
        if !mend_bit(&mut footer) {
            continue;
        }
        let trailer = [n_bytes.to_le_bytes(), MAGIC].concat();
        let is_whole = footer.digits() == Some(digits_of(file, &footer, &trailer)?.as_bytes());
        if is_whole {
            return Ok(Some((footer.start, [footer.bytes, trailer].concat())));
        }
    }
    Ok(None)
}

/// Turns back one flipped bit of the digits themselves, where everything else is what they stand for.
fn mend_digits(file: &mut (impl Read + Seek), footer: &mut Footer) -> Result<bool> {
    let Some(at) = footer.digits_at else { return Ok(false) };
    let wanted = digits_of(file, footer, &footer.trailer)?;
    let found = &mut footer.bytes[at..at + N_DIGITS];
    let is_mended = n_flipped(found, wanted.as_bytes()) == 1;
    if is_mended {
        found.copy_from_slice(wanted.as_bytes());
    }
    Ok(is_mended)
}

/// Bits in which two texts of the same length differ.
fn n_flipped(found: &[u8], wanted: &[u8]) -> u32 {
    found.iter().zip(wanted).map(|(found, wanted)| (found ^ wanted).count_ones()).sum()
}

/// Turns back one flipped bit of a footer, if its crc32 says that there is one at most.
fn mend_bit(footer: &mut Footer) -> bool {
    // The pair's own head may be what was hit: any place where it almost stands will do.
    if footer.digits_at.is_none() && !mend_head(footer) {
        return false;
    }
    let digits = footer.digits().map(<[u8]>::to_vec).unwrap_or_default();
    let text = std::str::from_utf8(&digits[N_SHA_DIGITS..]).unwrap_or_default();
    let Ok(said) = u32::from_str_radix(text, 16) else { return false };
    let difference = footer.crc() ^ said;
    if difference == 0 {
        return true;
    }
    let Some(bit) = flipped_bit(difference, footer.bytes.len()) else { return false };
    footer.bytes[bit / 8] ^= 1 << (bit % 8);
    footer.crc() == said
}

/// Restores the key and the head of the stamp's value where one bit of them was flipped.
fn mend_head(footer: &mut Footer) -> bool {
    let head = [KEY.as_bytes(), &VALUE_HEAD].concat();
    let is_nearly_it = |window: &[u8]| n_flipped(window, &head) == 1;
    let Some(at) = footer.bytes.windows(head.len()).rposition(is_nearly_it) else { return false };
    footer.bytes[at..at + head.len()].copy_from_slice(&head);
    footer.digits_at = find_digits(&footer.bytes);
    footer.digits_at.is_some()
}

/// Which bit of `n_bytes` bytes was flipped, if one was, by what that did to their crc32.
///
/// A crc is linear: the difference that a bit makes depends on its place alone, and goes from place to place by the
/// step that the crc makes for a byte of zero.
fn flipped_bit(difference: u32, n_bytes: usize) -> Option<usize> {
    let mut of_bit: [u32; 8] =
        std::array::from_fn(|bit| crc32fast::hash(&[1 << bit]) ^ crc32fast::hash(&[0]));
    for place in (0..n_bytes).rev() {
        if let Some(bit) = of_bit.iter().position(|found| *found == difference) {
            return Some(8 * place + bit);
        }
        for found in &mut of_bit {
            *found = zero_byte(*found);
        }
    }
    None
}

/// What a difference between two crc32 becomes after one more, equal byte.
fn zero_byte(difference: u32) -> u32 {
    (0..8).fold(difference, |crc, _| if crc & 1 == 1 { (crc >> 1) ^ 0xedb8_8320 } else { crc >> 1 })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Something with the outside of a parquet file.
    fn file(dir: &Path, pairs: &[u8]) -> std::path::PathBuf {
        let path = dir.join("x.parquet");
        let mut bytes = b"PAR1 some pages ".to_vec();
        bytes.extend(pairs);
        bytes.extend((pairs.len() as u32).to_le_bytes());
        bytes.extend(MAGIC);
        std::fs::write(&path, bytes).unwrap();
        path
    }

    fn pairs() -> Vec<u8> {
        let (key, value) = blank();
        [b"before".as_slice(), key.as_bytes(), &VALUE_HEAD, value.as_bytes(), b"behind"].concat()
    }

    fn stamped(dir: &Path) -> std::path::PathBuf {
        let path = file(dir, &pairs());
        seal(&mut File::options().read(true).write(true).open(&path).unwrap()).unwrap();
        path
    }

    #[test]
    fn no_flipped_bit_passes() {
        let dir = tempfile::tempdir().unwrap();
        let path = stamped(dir.path());
        assert_eq!(check(&path).unwrap(), Stamped::Whole);
        let digest = fsx::sha256_file(&path).unwrap();
        assert_eq!(check_and_digest(&path).unwrap(), Some((Stamped::Whole, digest)));
        let bytes = std::fs::read(&path).unwrap();
        for bit in 0..8 * bytes.len() {
            let mut damaged = bytes.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            std::fs::write(&path, damaged).unwrap();
            assert_ne!(check(&path).unwrap(), Stamped::Whole, "bit {bit}");
        }
    }

    #[test]
    fn any_flipped_bit_of_the_footer_is_turned_back() {
        let dir = tempfile::tempdir().unwrap();
        let path = stamped(dir.path());
        let bytes = std::fs::read(&path).unwrap();
        for bit in 0..8 * bytes.len() {
            let mut damaged = bytes.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            std::fs::write(&path, &damaged).unwrap();
            // Pages are not the footer's business.
            let can_be = bit / 8 >= 16;
            let mended = mended_end(&mut File::open(&path).unwrap()).unwrap();
            assert_eq!(mended.is_some(), can_be, "bit {bit}");
            if let Some((start, end)) = mended {
                damaged.splice(start as usize.., end);
                assert_eq!(damaged, bytes, "bit {bit}");
            }
        }
    }

    #[test]
    fn a_file_without_room_is_refused_and_has_no_stamp() {
        let dir = tempfile::tempdir().unwrap();
        let path = file(dir.path(), b"no pair of ours");
        let mut open = File::options().read(true).write(true).open(&path).unwrap();
        assert!(seal(&mut open).unwrap_err().to_string().contains("no room"));
        assert_eq!(check(&path).unwrap(), Stamped::Never);
        let path = stamped(dir.path());
        let mut open = File::options().read(true).write(true).open(&path).unwrap();
        assert!(seal(&mut open).unwrap_err().to_string().contains("already"));
    }
}
