//go:build !amd64

package page

func fold(page *[Size]byte) uint32 { return foldGeneric(page) }
