package storetest

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"github.com/holdfast-dr/holdfast/internal/store/local"
)

// PowerLoss records the steps of a directory store and makes, for any of them, the directory that a power
// failure just before that step may leave. It knows what POSIX promises and no more: the bytes of a file are
// safe after its sync, the names in a directory after the sync of that directory; everything else may be there
// or not, in any combination, a name without its bytes included.
//
//	p := storetest.NewPowerLoss()
//	s, err := local.Open(dir, local.Options{Before: p.Record})
//	… use s, noting p.Len() whenever something is promised …
//	for n := range p.Len() + 1 { err := p.Leave(newDir, n, fate); … open newDir and check … }
//
// The directory must be empty when the recording begins. Concurrent writers may be recorded: a step is recorded
// just before it happens, so the order of two steps at the same time is one of the orders possible.
type PowerLoss struct {
	// mu guards steps.
	mu    sync.Mutex
	steps []local.Step
}

// NewPowerLoss returns an empty recording.
func NewPowerLoss() *PowerLoss { return &PowerLoss{} }

// Record is the hook for local.Options.
func (p *PowerLoss) Record(s local.Step) error {
	s.Data = slices.Clone(s.Data)
	p.mu.Lock()
	defer p.mu.Unlock()
	p.steps = append(p.steps, s)
	return nil
}

// Len returns how many steps were recorded.
func (p *PowerLoss) Len() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.steps)
}

// Fate decides about what no sync has made safe.
type Fate struct{ keepName, keepBytes func() bool }

// The two extreme fates, and all between.
var (
	LoseAll   = Fate{never, never}
	NamesOnly = Fate{always, never} // each name is there at once, its bytes are not: an empty file
)

func never() bool  { return false }
func always() bool { return true }

// RandomFate throws a coin for each name and file; equal seeds throw equally.
func RandomFate(seed uint64) Fate {
	r := rand.New(rand.NewPCG(seed, 0)) //nolint:gosec // repeatable on purpose
	coin := func() bool { return r.IntN(2) == 0 }
	return Fate{coin, coin}
}

// file is one file's bytes, under however many names.
type file struct{ written, synced []byte }

// entries are the names in one directory. A nil file is a directory.
type entries map[string]*file

// folder is a directory's names as they are, and as they are after a power failure at the latest.
type folder struct{ now, safe entries }

// Leave makes in the empty directory dir what a power failure before step n (of 0 … Len) leaves.
func (p *PowerLoss) Leave(dir string, n int, fate Fate) error {
	p.mu.Lock()
	steps := p.steps[:n:n]
	p.mu.Unlock()
	folders := map[string]*folder{"": newFolder()}
	for i, s := range steps {
		if err := apply(folders, s); err != nil {
			return fmt.Errorf("step %d, %s %s: %w", i, s.Op, s.Path, err)
		}
	}
	return leave(folders, dir, "", fate)
}

func newFolder() *folder { return &folder{now: entries{}, safe: entries{}} }

// apply makes one step in the model. Steps that the real file system would have refused change nothing.
func apply(folders map[string]*folder, s local.Step) error {
	at := func(name string) (*folder, string, error) {
		dir, base := path.Split(name)
		f := folders[strings.TrimSuffix(dir, "/")]
		if f == nil {
			return nil, "", fmt.Errorf("directory %q was never made", dir)
		}
		return f, base, nil
	}
	if s.Op == local.OpSyncDir {
		f := folders[s.Path]
		if f == nil {
			return fmt.Errorf("it was never made")
		}
		f.safe = maps.Clone(f.now)
		return nil
	}
	from, base, err := at(s.Path)
	if err != nil {
		return err
	}
	this, there := from.now[base]
	switch s.Op {
	case local.OpCreate:
		from.now[base] = &file{}
	case local.OpWrite:
		this.written = append(this.written, s.Data...)
	case local.OpSync:
		this.synced = this.written[:len(this.written):len(this.written)]
	case local.OpMkdir:
		if !there {
			from.now[base] = nil
			folders[s.Path] = newFolder()
		}
	case local.OpUnlink:
		delete(from.now, base)
	case local.OpRename, local.OpLink:
		to, toBase, err := at(s.To)
		if err != nil || !there {
			return err
		}
		if _, taken := to.now[toBase]; taken && s.Op == local.OpLink {
			return nil
		}
		to.now[toBase] = this
		if s.Op == local.OpRename {
			delete(from.now, base)
		}
	default:
		return fmt.Errorf("unknown step")
	}
	return nil
}

// leave writes the directory name of the model below dir.
func leave(folders map[string]*folder, dir, name string, fate Fate) error {
	f := folders[name]
	if err := os.MkdirAll(filepath.Join(dir, name), 0o700); err != nil {
		return err
	}
	all := maps.Clone(f.safe)
	maps.Copy(all, f.now)
	for _, base := range slices.Sorted(maps.Keys(all)) {
		fl, keep := survivor(f, base, fate)
		if !keep {
			continue
		}
		full := path.Join(name, base)
		if fl == nil {
			if err := leave(folders, dir, full, fate); err != nil {
				return err
			}
			continue
		}
		// Append keeps what was synced; of the rest the file has nothing or everything.
		body := fl.synced
		if len(fl.written) > len(fl.synced) && fate.keepBytes() {
			body = fl.written
		}
		if err := os.WriteFile(filepath.Join(dir, full), body, 0o600); err != nil {
			return err
		}
	}
	return nil
}

// survivor returns what a name stands for after the failure: what was safe, or what it was changed to.
func survivor(f *folder, base string, fate Fate) (fl *file, keep bool) {
	safe, wasSafe := f.safe[base]
	now, isNow := f.now[base]
	if wasSafe == isNow && safe == now {
		return now, isNow
	}
	if fate.keepName() {
		return now, isNow
	}
	return safe, wasSafe
}
