package dr

import (
	"fmt"
	"math"
	"strconv"
	"strings"
)

// Bytes is an amount of data in bytes. It prints with a binary prefix (KiB, MiB, …), three digits at most.
type Bytes int64

// String returns the amount in the largest binary unit in which it is at least 1: "38.2 GiB".
func (b Bytes) String() string {
	const units = "KMGTPE"
	if b < 1024 && b > -1024 {
		return strconv.FormatInt(int64(b), 10) + " B"
	}
	f, i := float64(b)/1024, 0
	for math.Abs(f) >= 1023.95 && i < len(units)-1 {
		f, i = f/1024, i+1
	}
	if math.Abs(f) >= 100 {
		return fmt.Sprintf("%.0f %ciB", f, units[i])
	}
	return fmt.Sprintf("%.1f %ciB", f, units[i])
}

// ParseBytes reads an amount such as "512", "16MiB", "1.5 GiB", "40GB". KiB, MiB, GiB, TiB, PiB are powers of
// 1024; kB, MB, GB, TB, PB powers of 1000; a bare number counts bytes. Negative amounts are refused.
func ParseBytes(s string) (Bytes, error) {
	num := strings.TrimSpace(s)
	cut := strings.IndexFunc(num, func(r rune) bool { return (r < '0' || r > '9') && r != '.' })
	unit := ""
	if cut >= 0 {
		num, unit = num[:cut], strings.TrimSpace(num[cut:])
	}
	scale, ok := byteUnits[strings.ToLower(unit)]
	if !ok {
		return 0, fmt.Errorf("%q is no amount of bytes: unit %q is not one of B, KiB, MiB, GiB, TiB, PiB, kB, MB, GB, TB, PB", s, unit)
	}
	v, err := strconv.ParseFloat(num, 64)
	if err != nil || v < 0 || v*scale > math.MaxInt64/2 {
		return 0, fmt.Errorf("%q is no amount of bytes: write a number and a unit, such as 512MiB", s)
	}
	return Bytes(v * scale), nil
}

var byteUnits = map[string]float64{
	"": 1, "b": 1,
	"kib": 1 << 10, "mib": 1 << 20, "gib": 1 << 30, "tib": 1 << 40, "pib": 1 << 50,
	"kb": 1e3, "mb": 1e6, "gb": 1e9, "tb": 1e12, "pb": 1e15,
}
