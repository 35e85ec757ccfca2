package replay

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestChoose(t *testing.T) {
	for _, c := range []struct {
		s    Server
		want string
	}{
		{Server{13, 10}, ""},
		{Server{14, 10}, ""},
		{Server{15, 10}, "recovery_prefetch=try maintenance_io_concurrency=128"},
		{Server{18, 16}, "recovery_prefetch=try maintenance_io_concurrency=128"},
		{Server{15, 0}, "recovery_prefetch=try maintenance_io_concurrency=128"},
		{Server{15, 300}, "recovery_prefetch=try"},
	} {
		var got []string
		for _, x := range Choose(c.s) {
			got = append(got, x.Name+"="+x.Value)
		}
		if got := strings.Join(got, " "); got != c.want {
			t.Errorf("for %+v: %s, want %s", c.s, got, c.want)
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
