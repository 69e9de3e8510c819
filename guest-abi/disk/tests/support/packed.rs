//! The device's side of a packed ring, straight from the specification and for a driver that keeps
//! the rules (virtio 1.3, "Packed Virtqueues"): [`PackedSide`].

use super::arena::Arena;

const NEXT: u16 = 1;
const WRITE: u16 = 2;
const INDIRECT: u16 = 4;
const AVAIL: u16 = 1 << 7;
const USED: u16 = 1 << 15;

/// A chain: buffers, number, descriptors of the ring.
pub struct Taken {
    buffers: Vec<(u64, u32, bool)>,
    id: u16,
    count: u16,
}

impl Taken {
    pub fn read(&self, arena: &Arena) -> Vec<u8> {
        let readable = self.buffers.iter().filter(|buffer| !buffer.2);
        readable.flat_map(|(at, len, _)| arena.peek(*at, *len as usize)).collect()
    }

    pub fn writable(&self) -> u64 {
        self.buffers.iter().filter(|buffer| buffer.2).map(|buffer| u64::from(buffer.1)).sum()
    }

    pub fn write(&self, arena: &Arena, mut bytes: &[u8]) {
        for (at, len, _) in self.buffers.iter().filter(|buffer| buffer.2) {
            let (now, later) = bytes.split_at(bytes.len().min(*len as usize));
            arena.poke(*at, now);
            bytes = later;
        }
    }
}

/// The device's side.
pub struct PackedSide {
    size: u16,
    areas: [u64; 3],
    next: (u16, bool),
    used: (u16, bool),
}

impl PackedSide {
    pub fn new(size: u16, areas: [u64; 3]) -> Self {
        Self { size, areas, next: (0, true), used: (0, true) }
    }

    fn forward(&self, (index, turn): (u16, bool), count: u16) -> (u16, bool) {
        let index = index + count;
        if index >= self.size { (index - self.size, !turn) } else { (index, turn) }
    }

    fn descriptor(&self, arena: &Arena, at: u64) -> (u64, u32, u16, u16) {
        let bytes: [u8; 16] = arena.peek(at, 16).try_into().expect("sixteen bytes");
        let value = u128::from_le_bytes(bytes);
        (value as u64, (value >> 64) as u32, (value >> 96) as u16, (value >> 112) as u16)
    }

    fn is_available(&self, arena: &Arena) -> bool {
        let (index, turn) = self.next;
        let flags = self.descriptor(arena, self.areas[0] + 16 * u64::from(index)).3;
        (flags & AVAIL != 0) == turn && (flags & USED != 0) != turn
    }

    pub fn fetch(&mut self, arena: &Arena) -> Option<Taken> {
        if !self.is_available(arena) {
            return None;
        }
        let mut taken = Taken { buffers: Vec::new(), id: 0, count: 0 };
        loop {
            let at = self.areas[0] + 16 * u64::from(self.next.0);
            let (address, len, id, flags) = self.descriptor(arena, at);
            self.next = self.forward(self.next, 1);
            (taken.id, taken.count) = (id, taken.count + 1);
            if flags & INDIRECT != 0 {
                for entry in 0..u64::from(len) / 16 {
                    let (at, len, id, flags) = self.descriptor(arena, address + 16 * entry);
                    assert_eq!((id, flags & !WRITE), (0, 0), "reserved in a table");
                    taken.buffers.push((at, len, flags & WRITE != 0));
                }
            } else {
                taken.buffers.push((address, len, flags & WRITE != 0));
            }
            if flags & NEXT == 0 {
                return Some(taken);
            }
        }
    }

    /// Whether the driver wants an interrupt for it.
    pub fn complete(&mut self, arena: &Arena, taken: &Taken, written: u32) -> bool {
        let (index, turn) = self.used;
        let at = self.areas[0] + 16 * u64::from(index);
        let sides = if turn { AVAIL | USED } else { 0 };
        arena.poke(at + 8, &written.to_le_bytes());
        arena.poke(at + 12, &taken.id.to_le_bytes());
        arena.poke(at + 14, &sides.to_le_bytes());
        let before = self.used;
        self.used = self.forward(self.used, taken.count);
        let wish: [u8; 4] = arena.peek(self.areas[1], 4).try_into().expect("four bytes");
        let (place, flags) =
            (u16::from_le_bytes([wish[0], wish[1]]), u16::from_le_bytes([wish[2], wish[3]]));
        match flags {
            0 => true,
            1 => false,
            2 => {
                // The place lies from the one before up to the new one, which is not in it.
                let wanted = (place & 0x7fff, place >> 15 != 0);
                (0..taken.count).any(|step| self.forward(before, step) == wanted)
            }
            _ => panic!("reserved flags"),
        }
    }

    /// Asks for a doorbell for the next descriptor; whether it is available already.
    pub fn listen(&mut self, arena: &Arena) -> bool {
        let (index, turn) = self.next;
        let place = index | u16::from(turn) << 15;
        arena.poke(self.areas[2], &place.to_le_bytes());
        arena.poke(self.areas[2] + 2, &2u16.to_le_bytes());
        self.is_available(arena)
    }
}
