package replay

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestChoose(t *testing.T) {
	const mib, gib = 1 << 20, 1 << 30
	const reads = "recovery_prefetch=try maintenance_io_concurrency=128"
	for _, c := range []struct {
		s    Server
		m    Machine
		want string
	}{
		{Server{Major: 13, Promoted: true, SharedBuffers: 128 * mib}, Machine{FreeMemory: 16 * gib}, ""},
		{Server{Major: 14, Promoted: true, SharedBuffers: 128 * mib}, Machine{FreeMemory: 16 * gib}, "shared_buffers=4096MB!"},
		{Server{Major: 15, Promoted: true, SharedBuffers: 128 * mib}, Machine{FreeMemory: 16 * gib}, "shared_buffers=4096MB! " + reads},
		{Server{Major: 15, Promoted: false, SharedBuffers: 128 * mib}, Machine{FreeMemory: 16 * gib}, reads},
		{Server{Major: 15, Promoted: true, SharedBuffers: 3 * gib}, Machine{FreeMemory: 16 * gib}, reads},
		{Server{Major: 15, Promoted: true, SharedBuffers: 128 * mib}, Machine{FreeMemory: 1 << 40}, "shared_buffers=8192MB! " + reads},
		{Server{Major: 15, Promoted: true, SharedBuffers: 128 * mib}, Machine{FreeMemory: gib / 2}, reads},
		{Server{Major: 15, Promoted: true, SharedBuffers: 128 * mib}, Machine{}, reads},
		{Server{Major: 15, Promoted: true, SharedBuffers: 128 * mib, HugePages: "on"}, Machine{FreeMemory: 16 * gib}, reads},
		{Server{Major: 15, Promoted: true, SharedBuffers: 128 * mib, HugePages: "try"}, Machine{FreeMemory: 16 * gib, HugePages: true}, reads},
		{Server{Major: 18, IOConcurrency: 16}, Machine{}, reads},
		{Server{Major: 18, IOConcurrency: 300}, Machine{}, "recovery_prefetch=try"},
	} {
		var got []string
		for _, x := range Choose(c.s, c.m) {
			line := x.Name + "=" + x.Value
			if x.Restart {
				line += "!"
			}
			got = append(got, line)
		}
		if got := strings.Join(got, " "); got != c.want {
			t.Errorf("for %+v on %+v: %s, want %s", c.s, c.m, got, c.want)
		}
	}
}

// Whatever stands in the file stays as it is, however often settings are set and taken back.
func TestSetAndUnset(t *testing.T) {
	settings := []Setting{{Name: "max_wal_size", Value: "2GB"}}
	for _, before := range []string{"", "work_mem = '4MB'\n", "# holdfast restore: begin (snapshot x)\nhot_standby = 'on'\n# holdfast restore: end\n", "port = 1\n# no newline at the end\n"} {
		dir := t.TempDir()
		path := filepath.Join(dir, fileName)
		if err := os.WriteFile(path, []byte(before), 0o600); err != nil {
			t.Fatal(err)
		}
		if had, err := Unset(dir, nil); had || err != nil {
			t.Errorf("from %q a block was taken: %v, %v", before, had, err)
		}
		for range 2 {
			if err := Set(dir, nil, settings); err != nil {
				t.Fatal(err)
			}
			b, err := os.ReadFile(path)
			if err != nil || !strings.HasPrefix(string(b), before) || strings.Count(string(b), "max_wal_size = '2GB'\n") != 1 || strings.Count(string(b), Marker+" = 'on'\n") != 1 {
				t.Errorf("of %q Set makes %q, %v", before, b, err)
			}
		}
		if had, err := Unset(dir, nil); !had || err != nil {
			t.Errorf("Unset says %v, %v", had, err)
		}
		if b, err := os.ReadFile(path); err != nil || string(b) != before {
			t.Errorf("of %q there is now %q, %v", before, b, err)
		}
	}
}

func TestSetWithoutAFile(t *testing.T) {
	dir := t.TempDir()
	if err := Set(dir, nil, nil); err != nil {
		t.Fatal(err)
	}
	if had, err := Unset(dir, nil); !had || err != nil {
		t.Errorf("Unset says %v, %v", had, err)
	}
	// What a killed one has left is no hindrance.
	if err := os.WriteFile(filepath.Join(dir, fileName+".holdfast"), []byte("half"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := Set(dir, nil, nil); err != nil {
		t.Error(err)
	}
}
