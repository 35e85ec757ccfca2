package page

import "golang.org/x/sys/cpu"

var hasAVX2 = cpu.X86.HasAVX2

// foldAVX2 is fold in vector instructions: 8 lanes a register.
//
//go:noescape
func foldAVX2(page *byte, basis *[lanes]uint32) uint32

func fold(page *[Size]byte) uint32 {
	if hasAVX2 {
		return foldAVX2(&page[0], &basis)
	}
	return foldGeneric(page)
}
