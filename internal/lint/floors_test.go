package lint

import (
	"path"
	"strings"
	"testing"
)

// floors says on which floor each package under internal/ stands. A package imports only lower floors; an entry
// speaks for everything below it that has no entry of its own.
var floors = map[string]int{
	"dr":     0, // vocabulary
	"config": 0, // holdfast.yaml

	"sidecar": 0, // one process for many short commands
	"quick":   0, // asks it before the program begins

	"store": 1, // object stores
	"seal":  1, // cryptography
	"state": 1, // the control plane's state

	"repo": 2, // the repository

	"pg": 3, // PostgreSQL

	"capture":  4, // operations on real data
	"restore":  4,
	"geo":      4,
	"evidence": 4,

	"verify":    5, // proofs
	"workspace": 5, // what holdfast.yaml names, opened

	"runbook":    6, // decisions
	"failover":   6,
	"incident":   6,
	"continuity": 6,
	"drill":      6,
	"standby":    6, // keeps a server recovered, ready to take over
	"monitor":    6,

	"server": 7, // processes and the wire between them
	"agent":  7,
	"api":    7,

	"cli":  8, // a person's hands and eyes
	"web":  8,
	"demo": 8,
	"e2e":  8, // the whole program, tests only
}

// families are packages of one floor that may import each other, because they are one thing in several rooms.
var families = []string{"pg", "store", "restore", "repo", "capture"}

// edges are single imports that the floors forbid and that are right nevertheless, each with its reason.
var edges = map[[2]string]string{
	{"config", "dr"}: "configuration is values of the vocabulary's types",
	{"cli", "demo"}:  "the demo is a command; it drives the whole program and has a package for its size",
}

// support are packages for tests, which any test may import and no program does.
var support = []string{"store/storetest", "pg/pgtest", "repo/repotest"}

func TestPackagesImportOnlyLowerFloors(t *testing.T) {
	for _, f := range goFiles(t) {
		from, ok := internalPackage(f.dir)
		if !ok {
			continue
		}
		floor, known := floorOf(from)
		if !known && from != "lint" {
			t.Errorf("%s: package %s has no floor; name it in floors_test.go", f.path, from)
			continue
		}
		for _, imported := range f.imports() {
			to, ok := strings.CutPrefix(imported, module+"/internal/")
			if !ok || to == from {
				continue
			}
			below, known := floorOf(to)
			if !known {
				continue // reported where its own files are read
			}
			switch {
			case isSupport(to):
				if !f.test && !isSupport(from) {
					t.Errorf("%s imports %s: it is for tests only", f.path, to)
				}
			case f.test || isSupport(from), below < floor, below == floor && sameFamily(from, to):
			case edges[[2]string{top(from), top(to)}] != "":
			case below == floor:
				t.Errorf("%s imports %s: both are on floor %d, and packages of one floor do not know each other; wire them where the program begins, or name the edge in floors_test.go with its reason", f.path, to, floor)
			default:
				t.Errorf("%s (floor %d) imports %s (floor %d): a package imports only lower floors", f.path, floor, to, below)
			}
		}
	}
}

// A rule that accepts everything would go unnoticed.
func TestFloorsAreTold(t *testing.T) {
	for _, c := range []struct {
		pkg   string
		floor int
		known bool
	}{{"dr", 0, true}, {"pg/wal", 3, true}, {"restore/mount", 4, true}, {"pgx", 0, false}, {"lint", 0, false}} {
		if got, known := floorOf(c.pkg); got != c.floor || known != c.known {
			t.Errorf("floor of %s: %d, %v; want %d, %v", c.pkg, got, known, c.floor, c.known)
		}
	}
	if !sameFamily("pg/wal", "pg/page") || sameFamily("capture", "restore") || sameFamily("dr", "dr") {
		t.Error("families are told wrong")
	}
	if !isSupport("pg/pgtest") || isSupport("pg") {
		t.Error("support packages are told wrong")
	}
}

func internalPackage(dir string) (string, bool) { return strings.CutPrefix(dir, "internal/") }

func floorOf(pkg string) (int, bool) {
	for p := pkg; p != "."; p = path.Dir(p) {
		if floor, ok := floors[p]; ok {
			return floor, true
		}
	}
	return 0, false
}

func top(pkg string) string {
	first, _, _ := strings.Cut(pkg, "/")
	return first
}

func sameFamily(a, b string) bool {
	for _, family := range families {
		if top(a) == family && top(b) == family {
			return true
		}
	}
	return false
}

func isSupport(pkg string) bool {
	for _, s := range support {
		if pkg == s || strings.HasPrefix(pkg, s+"/") {
			return true
		}
	}
	return false
}
