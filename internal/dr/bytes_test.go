package dr

import "testing"

func TestBytesString(t *testing.T) {
	for b, want := range map[Bytes]string{
		0: "0 B", 1023: "1023 B", -1023: "-1023 B", 1024: "1.0 KiB", -1536: "-1.5 KiB", 1 << 20: "1.0 MiB",
		1<<20 - 1: "1.0 MiB", 100 << 20: "100 MiB", 16 << 30: "16.0 GiB", 1<<63 - 1: "8.0 EiB",
	} {
		if got := b.String(); got != want {
			t.Errorf("Bytes(%d) prints %q, want %q", int64(b), got, want)
		}
	}
}

func TestParseBytes(t *testing.T) {
	for s, want := range map[string]Bytes{
		"0": 0, "512": 512, "512B": 512, "16MiB": 16 << 20, "1.5 GiB": 3 << 29, " 40GB ": 40e9, "7kb": 7000, "2 tib": 2 << 40,
	} {
		if got, err := ParseBytes(s); err != nil || got != want {
			t.Errorf("ParseBytes(%q) = %d, %v; want %d", s, int64(got), err, int64(want))
		}
	}
	for _, s := range []string{"", "MiB", "-1", "1..5MiB", "1e3", "3 elephants", "99999999PiB", "0x10", "1 2", "NaN", "Inf"} {
		if got, err := ParseBytes(s); err == nil {
			t.Errorf("ParseBytes(%q) = %d; want an error", s, int64(got))
		}
	}
}
