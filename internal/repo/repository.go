package repo

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/holdfast-dr/holdfast/internal/dr"
	"github.com/holdfast-dr/holdfast/internal/seal"
	"github.com/holdfast-dr/holdfast/internal/store"
)

// FormatVersion is the version of the format that this package reads and writes.
const FormatVersion = 1

// maxSmall bounds the objects that are not packs, index or log: manifests, intents, marks, slots.
const maxSmall = 16 << 20

// Options say how a repository is opened. The zero value is good for reading small things.
type Options struct {
	// CacheDir keeps the index between runs; it holds no plain data. Empty: a temporary directory that
	// disappears with Close.
	CacheDir string
	// Codecs decode and encode chunks whose form only an engine knows (pages). See Codec.
	Codecs []Codec
	// PackBytes is the size at which a pack is closed; 0 means 16 MiB.
	PackBytes int
	// Signer signs snapshots and marks. Needed by writers.
	Signer *seal.Signer
	// Host is recorded with what this process writes.
	Host string
	// Lock is how long objects are retained at least, in a store that was opened so; 0: they are not. See RenewLock.
	Lock time.Duration
	// LockMode is the mode in which the store retains.
	LockMode store.LockMode
	// Now is the clock; nil is time.Now. Nothing that keeps data safe depends on it.
	Now func() time.Time
}

func (o *Options) setDefaults() {
	if o.PackBytes == 0 {
		o.PackBytes = 16 << 20
	}
	if o.Now == nil {
		o.Now = time.Now
	}
}

// Repository is one replica, opened with its keys. It may be used by several goroutines.
type Repository struct {
	store  store.Store // bare, or earlier around it
	bare   store.Store
	keys   *seal.Keyring
	id     string
	opts   Options
	codecs map[byte]Codec
	index  *index
	opens  objectCache
	nodes  nodeCache
	distance
	seen      patience
	manifests manifests
	signers   signerKeys
	evidence  struct {
		sync.Mutex // guards copied
		copied     map[EvidenceLog]*copiedEvidence
	}
	fragments fragments
	limits    limits
	earlier   *earlier             // nil: the store keeps no versions
	help      atomic.Pointer[help] // nil: nobody is asked
	replica   atomic.Pointer[string]
	marker    atomic.Int64 // when the marker was last seen, in microseconds since 1970
}

// limits are sizes at which things are written in the middle of something. Tests make them small.
type limits struct {
	indexEvery   int // new chunks after which a writer writes an index object
	mergeEntries int // entries at which a merged index object is closed: about 14 MB
	mergeFrom    int // index objects of writers that are worth a collection by themselves
	gatherFrom   int // small packs of a group that are worth rewriting
	smallTable   int // bytes of patches of a part that are not worth a table of their own
}

var defaultLimits = limits{indexEvery: 1 << 15, mergeEntries: 1 << 18, mergeFrom: 32, gatherFrom: 16, smallTable: 4 << 10}

// marker is the plain JSON in holdfast.json: the only thing that a reader without a key can know.
type marker struct {
	Format  string    `json:"format"`
	Version int       `json:"version"`
	ID      string    `json:"id"`
	Created time.Time `json:"created"`
}

const markerFormat = "holdfast-repository"

// ErrExists is the error of Init where there is a repository already.
var ErrExists = errors.New("there is a repository already")

// ErrNone is in the errors of Open where there is no repository.
var ErrNone = errors.New("there is none: it has no " + markerName)

// Init makes a repository in an empty replica, for recipients that can open it, and returns it open. An
// interrupted Init may be repeated: until the marker is written, the last step, there is no repository.
func Init(ctx context.Context, st store.Store, recipients []seal.Recipient, opts Options) (*Repository, error) {
	opts.setDefaults()
	if len(recipients) == 0 {
		return nil, errors.New("a repository needs at least one recipient that can open it")
	}
	switch _, err := st.Stat(ctx, markerName); {
	case err == nil:
		return nil, dr.Fail(fmt.Sprintf("init %s", st), ErrExists, "choose an empty place, or use the repository that is there")
	case !errors.Is(err, store.ErrNotExist):
		return nil, err
	}
	if vault := store.VaultOf(st); vault != nil && opts.Lock > 0 {
		if all, err := store.VersionsOf(ctx, vault, markerName); err == nil && len(all) > 0 {
			return nil, dr.Fail(fmt.Sprintf("init %s", st), fmt.Errorf("%w: it was deleted, and is kept by the bucket; what was first is what is opened where there is a lock", ErrExists),
				"choose another bucket or prefix; or bring it back with holdfast repo check --repair")
		}
	}
	keys, err := seal.NewKeyring(opts.Now())
	if err != nil {
		return nil, err
	}
	if err := writeGeneration(ctx, st, keys, recipients, opts.Now()); err != nil {
		return nil, err
	}
	body, err := json.Marshal(marker{markerFormat, FormatVersion, keys.Repository(), opts.Now().UTC()})
	if err != nil {
		return nil, err
	}
	// Two concurrent Inits: the marker names the one that won; the other's keys are never looked at.
	if err := st.Create(ctx, markerName, append(body, '\n')); err != nil {
		if errors.Is(err, store.ErrExists) {
			return nil, dr.Fail(fmt.Sprintf("init %s", st), ErrExists, "somebody else made one at this moment: open that")
		}
		return nil, err
	}
	return open(st, keys, opts)
}

// Open opens the repository in st with what c can unlock.
func Open(ctx context.Context, st store.Store, c seal.Credentials, opts Options) (*Repository, error) {
	opts.setDefaults()
	keys, err := unlockMarked(ctx, st, c)
	vault := store.VaultOf(st)
	if vault == nil || ctx.Err() != nil {
		if err != nil {
			return nil, err
		}
		return open(st, keys, opts)
	}
	// A thief may have replaced what opens it, also by a repository of his own that opens with our keys: its recipients are public.
	// What was there first counts; without a lock whoever may write may as well make another repository there.
	first := genesis{st, vault}
	switch original, firstErr := firstMarker(ctx, first, keys, opts); {
	case store.KindOf(firstErr) == store.Busy:
		return nil, firstErr
	case firstErr == nil && original != "" && (keys == nil || keys.Repository() != original):
		if k, ok := unlockAny(ctx, first, original, c); ok {
			return open(st, k, opts)
		}
		if err == nil {
			err = dr.Fail(fmt.Sprintf("open repository in %s", st), fmt.Errorf("%w: %s is there, and %s was there first", ErrReplaced, keys.Repository(), original),
				"if nobody has put it there but you, use another bucket or prefix for it; else give a key of the first one")
		}
	}
	if err != nil {
		return nil, err
	}
	return open(st, keys, opts)
}

// OpenRebuilt is Open where what opens the repository is damaged, and a view of st rebuilds that.
func OpenRebuilt(ctx context.Context, st, view store.Store, c seal.Credentials, opts Options) (*Repository, error) {
	opts.setDefaults()
	keys, err := unlockMarked(ctx, view, c)
	if err != nil {
		return nil, err
	}
	return open(st, keys, opts)
}

// firstMarker returns the ID of the repository that was first at a place, where that is to be known: nothing else opens, or the place is
// locked. It is empty where it is not known.
func firstMarker(ctx context.Context, st genesis, opened *seal.Keyring, opts Options) (string, error) {
	if opened != nil {
		if opts.Lock <= 0 {
			return "", nil
		}
		all, err := store.VersionsOf(ctx, st.vault, markerName)
		if err != nil || len(all) < 2 {
			return "", err // nobody has touched it
		}
	}
	m, err := readMarker(ctx, st)
	return m.ID, err
}

// unlockMarked opens the keys of the repository that the marker names.
func unlockMarked(ctx context.Context, st store.Store, c seal.Credentials) (*seal.Keyring, error) {
	m, err := readMarker(ctx, st)
	if err != nil {
		return nil, err
	}
	return unlock(ctx, st, m.ID, c)
}

func open(st store.Store, keys *seal.Keyring, opts Options) (*Repository, error) {
	r := &Repository{store: st, bare: st, keys: keys, id: keys.Repository(), opts: opts, codecs: map[byte]Codec{}, limits: defaultLimits}
	if vault := store.VaultOf(st); vault != nil {
		r.earlier = &earlier{Store: st, vault: vault, r: r, pinned: map[string]store.Version{}}
		r.store = r.earlier
	}
	r.marker.Store(opts.Now().UnixMicro())
	for _, c := range opts.Codecs {
		if c.ID() < firstCodec {
			panic("repo: a codec's ID is below 16")
		}
		r.codecs[c.ID()] = c
	}
	ix, err := newIndex(opts.CacheDir, r.id)
	if err != nil {
		return nil, err
	}
	r.index = ix
	return r, nil
}

func readMarker(ctx context.Context, st store.Store) (marker, error) {
	var m marker
	b, err := st.Get(ctx, markerName, 1<<16)
	switch {
	case errors.Is(err, store.ErrNotExist):
		return m, dr.Fail(fmt.Sprintf("open repository in %s", st), ErrNone,
			"check the place, or make one: holdfast repo init")
	case err != nil:
		return m, fmt.Errorf("open repository: %w", err)
	}
	if err := json.Unmarshal(b, &m); err != nil || m.Format != markerFormat {
		return m, dr.Fail(fmt.Sprintf("open repository in %s", st), errors.New(markerName+" is damaged or belongs to something else"),
			"restore this one small object from another replica")
	}
	if m.Version != FormatVersion {
		return m, dr.Fail(fmt.Sprintf("open repository in %s", st),
			fmt.Errorf("it has format %d, and this holdfast reads format %d", m.Version, FormatVersion), "use a holdfast that is as new as the one that wrote it")
	}
	return m, nil
}

// ErrReplaced is the error of writing where the repository was removed, or another one was made at its place.
var ErrReplaced = errors.New("it is no longer the repository that was opened")

// markerEvery is how long a process that has a repository open believes that it is still there.
const markerEvery = time.Minute

// checkMarker refuses to go on where another repository is at the place, now and then: what is sealed with the keys of one
// that is gone can be read by nobody.
func (r *Repository) checkMarker(ctx context.Context) error {
	now := r.opts.Now()
	if since := now.Sub(time.UnixMicro(r.marker.Load())); 0 <= since && since < markerEvery {
		return nil
	}
	// As it stands, and not as it was stored: it may be another's by now. What is no marker at all is a thief's.
	m, err := readMarker(ctx, r.bare)
	if err != nil && r.earlier != nil {
		m, err = readMarker(ctx, r.store)
	}
	if err != nil {
		return err
	}
	if m.ID != r.id {
		return dr.Fail(fmt.Sprintf("write to %s", r.store), fmt.Errorf("%w: repository %s is there, and ours is %s", ErrReplaced, m.ID, r.id), "run the command again, with the keys of the new one")
	}
	r.marker.Store(now.UnixMicro())
	return nil
}

// ID returns the repository's name: 32 hexadecimal digits, equal in every replica.
func (r *Repository) ID() string { return r.id }

// Store returns the replica.
func (r *Repository) Store() store.Store { return r.bare }

// Keys returns the keyring.
func (r *Repository) Keys() *seal.Keyring { return r.keys }

// Close releases what the repository holds on this machine. The store stays open: it belongs to who opened it.
func (r *Repository) Close() error { return r.index.close() }
