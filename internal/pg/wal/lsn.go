package wal

import (
	"fmt"
	"strconv"
	"strings"
)

// LSN is a position in the log: bytes since its beginning. Zero is no position: no record is ever there.
type LSN uint64

// TimelineID numbers a timeline; the first is 1, and zero is none.
type TimelineID uint32

// String returns the LSN as PostgreSQL prints it: "2/9A000028".
func (l LSN) String() string { return fmt.Sprintf("%X/%X", uint32(l>>32), uint32(l)) }

// MarshalText is String, so that JSON holds what PostgreSQL understands.
func (l LSN) MarshalText() ([]byte, error) { return []byte(l.String()), nil }

// UnmarshalText is ParseLSN.
func (l *LSN) UnmarshalText(b []byte) error {
	v, err := ParseLSN(string(b))
	*l = v
	return err
}

// ParseLSN reads "2/9A000028".
func ParseLSN(s string) (LSN, error) {
	high, low, ok := strings.Cut(s, "/")
	h, err1 := parseHex32(high)
	l, err2 := parseHex32(low)
	if !ok || err1 != nil || err2 != nil {
		return 0, fmt.Errorf("%q is no LSN: write two hexadecimal numbers, such as 2/9A000028", s)
	}
	return LSN(h)<<32 | LSN(l), nil
}

// parseHex32 reads one to eight hexadecimal digits: no sign, no prefix, no underscore.
func parseHex32(s string) (uint32, error) {
	if s == "" || len(s) > 8 {
		return 0, strconv.ErrSyntax
	}
	v, err := strconv.ParseUint(s, 16, 32)
	return uint32(v), err
}
