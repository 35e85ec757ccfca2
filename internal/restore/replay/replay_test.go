package replay

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestChoose(t *testing.T) {
	const gib = 1 << 30
	usual := Server{Major: 15, SharedBuffers: 128 << 20, MaxWALSize: gib, HugePages: "try"}
	machine := Machine{FreeMemory: 16 * gib, FreeDisk: 100 * gib}
	for _, c := range []struct {
		why    string
		change func(*Server, *Machine)
		want   string
	}{
		{"usual", func(*Server, *Machine) {}, "shared_buffers=4096MB! max_wal_size=25600MB checkpoint_timeout=30min recovery_prefetch=try"},
		{"an old version", func(s *Server, _ *Machine) { s.Major = 14 }, "shared_buffers=4096MB! max_wal_size=25600MB checkpoint_timeout=30min"},
		{"a large machine", func(_ *Server, m *Machine) { m.FreeMemory, m.FreeDisk = 1<<40, 1<<44 }, "shared_buffers=8192MB! max_wal_size=32768MB checkpoint_timeout=30min recovery_prefetch=try"},
		{"a server that has more", func(s *Server, _ *Machine) { s.SharedBuffers, s.MaxWALSize = 3*gib, 20*gib }, "recovery_prefetch=try"},
		{"a small machine", func(_ *Server, m *Machine) { m.FreeMemory, m.FreeDisk = gib, gib }, "shared_buffers=256MB! recovery_prefetch=try"},
		{"huge pages are insisted on", func(s *Server, _ *Machine) { s.HugePages = "on" }, "max_wal_size=25600MB checkpoint_timeout=30min recovery_prefetch=try"},
		{"huge pages are set apart", func(_ *Server, m *Machine) { m.HugePages = true }, "max_wal_size=25600MB checkpoint_timeout=30min recovery_prefetch=try"},
		{"nobody knows the machine", func(_ *Server, m *Machine) { *m = Machine{} }, "recovery_prefetch=try"},
	} {
		s, m := usual, machine
		c.change(&s, &m)
		var got []string
		for _, x := range Choose(s, m) {
			line := x.Name + "=" + x.Value
			if x.Restart {
				line += "!"
			}
			got = append(got, line)
		}
		if d := cmp.Diff(c.want, strings.Join(got, " ")); d != "" {
			t.Errorf("%s (-want +got):\n%s", c.why, d)
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
