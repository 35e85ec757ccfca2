package walserve

import (
	"os"
	"syscall"
	"testing"
)

// What is reserved for a file is not yet part of it: one that is cut short by a failure looks cut short.
func TestReserve(t *testing.T) {
	in, err := openPlace(t.TempDir(), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer in.close()
	f, err := in.create("segment")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close() //nolint:errcheck // a test's
	reserve(f, int64(size))
	info, err := f.Stat()
	if err != nil || info.Size() != 0 {
		t.Fatalf("it has %d bytes, %v", info.Size(), err)
	}
	if blocks := info.Sys().(*syscall.Stat_t).Blocks; blocks < int64(size)/512 {
		t.Skipf("this file system reserves nothing: it has %d blocks", blocks)
	}
	if _, err := f.WriteAt([]byte("log"), 0); err != nil {
		t.Fatal(err)
	}
	if b, err := os.ReadFile(f.Name()); err != nil || string(b) != "log" {
		t.Errorf("%q, %v", b, err)
	}
}
