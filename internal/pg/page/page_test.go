package page

import (
	"errors"
	"testing"
)

func TestVerify(t *testing.T) {
	good := make([]byte, Size)
	setHeader(good, 0x16B3748, 28, 8000, 8192)
	seal := func(p []byte) []byte { // set the checksum for block 77
		sum := Checksum(p, 77)
		p[8], p[9] = byte(sum), byte(sum>>8)
		return p
	}
	change := func(f func(p []byte)) []byte {
		p := append([]byte(nil), good...)
		f(p)
		return p
	}
	seal(good)
	for _, test := range []struct {
		name      string
		page      []byte
		checksums bool
		want      State
	}{
		{"good", good, true, OK},
		{"new", make([]byte, Size), true, New},
		{"torn", change(func(p []byte) { p[8191] = 1 }), true, BadChecksum},
		{"torn, no checksums", change(func(p []byte) { p[8191] = 1 }), false, OK},
		{"upper zero, not new", change(func(p []byte) { p[14], p[15] = 0, 0 }), true, BadHeader},
		{"unknown flag", seal(change(func(p []byte) { p[10] = 8 })), true, BadHeader},
		{"lower above upper", seal(change(func(p []byte) { p[13] = 0x1F; p[12] = 0x41 })), true, BadHeader},
		{"special not aligned", seal(change(func(p []byte) { p[16] = 0xFC; p[17] = 0x1F })), true, BadHeader},
		{"special beyond the page", seal(change(func(p []byte) { p[16] = 8; p[17] = 0x20 })), true, BadHeader},
	} {
		t.Run(test.name, func(t *testing.T) {
			got, err := Verify(test.page, 77, test.checksums)
			if got != test.want {
				t.Fatalf("state %d (%v), want %d", got, err, test.want)
			}
			var e *Error
			if bad := got == BadChecksum || got == BadHeader; errors.As(err, &e) != bad {
				t.Fatalf("error %v for state %d", err, got)
			} else if bad && (e.State != got || e.Block != 77 || e.Error() == "") {
				t.Errorf("the error says %+v", e)
			}
		})
	}
	if h := ReadHeader(good); h.LSN != 0x16B3748 || h.Lower != 28 || h.SizeVer != Size|4 {
		t.Errorf("header %+v", h)
	}
}
