package page

import "encoding/binary"

// The page checksum of PostgreSQL (storage/checksum_impl.h): FNV-1a with an extra shift, in 32 lanes side by
// side, each over every 32nd 4-byte word of the page; two rounds of zeros, the lanes folded by exclusive or.

const (
	lanes = 32
	prime = 16777619
)

// basis is the start value of each lane: random numbers fixed by PostgreSQL (checksumBaseOffsets).
var basis = [lanes]uint32{
	0x5B1F36E9, 0xB8525960, 0x02AB50AA, 0x1DE66D2A, 0x79FF467A, 0x9BB9F8A3, 0x217E7CD2, 0x83E13D2C,
	0xF8D4474F, 0xE39EB970, 0x42C6AE16, 0x993216FA, 0x7B093B5D, 0x98DAFF3C, 0xF718902A, 0x0B1C9CDB,
	0xE58F764B, 0x187636BC, 0x5D7B3BB1, 0xE73DE7DE, 0x92BEC979, 0xCCA6C0B2, 0x304A0979, 0x85AA43D4,
	0x783125BB, 0x6CA8EAA2, 0xE407EAC6, 0x4B5CFC3E, 0x9FBF8C76, 0x15CA20BE, 0xF2CA9FD3, 0x959BD756,
}

// Checksum returns what pd_checksum of the page must hold when it is block number block of its relation fork
// (counted over all segments: segment number × 131072 + block within the file). The stored pd_checksum does
// not matter, and page is not modified. It panics unless page has exactly Size bytes.
func Checksum(page []byte, block uint32) uint16 {
	return uint16((fold((*[Size]byte)(page))^block)%65535) + 1
}

// foldGeneric takes the lanes in four groups of eight: eight sums stay in registers and their chains of
// multiplications overlap, which is what makes it fast on any CPU.
func foldGeneric(page *[Size]byte) uint32 {
	var all uint32
	for g := 0; g < lanes; g += 8 {
		b := (*[8]uint32)(basis[g:])
		s0, s1, s2, s3, s4, s5, s6, s7 := b[0], b[1], b[2], b[3], b[4], b[5], b[6], b[7]
		for row := g * 4; row <= Size-32; row += lanes * 4 {
			q := (*[32]byte)(page[row:])
			w2 := binary.LittleEndian.Uint32(q[8:])
			if row == 0 {
				w2 &= 0xFFFF0000 // pd_checksum counts as zero
			}
			s0 = step(s0 ^ binary.LittleEndian.Uint32(q[0:]))
			s1 = step(s1 ^ binary.LittleEndian.Uint32(q[4:]))
			s2 = step(s2 ^ w2)
			s3 = step(s3 ^ binary.LittleEndian.Uint32(q[12:]))
			s4 = step(s4 ^ binary.LittleEndian.Uint32(q[16:]))
			s5 = step(s5 ^ binary.LittleEndian.Uint32(q[20:]))
			s6 = step(s6 ^ binary.LittleEndian.Uint32(q[24:]))
			s7 = step(s7 ^ binary.LittleEndian.Uint32(q[28:]))
		}
		all ^= step(step(s0)) ^ step(step(s1)) ^ step(step(s2)) ^ step(step(s3)) ^
			step(step(s4)) ^ step(step(s5)) ^ step(step(s6)) ^ step(step(s7))
	}
	return all
}

func step(t uint32) uint32 { return t*prime ^ t>>17 }
