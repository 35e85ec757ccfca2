package repo

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/holdfast-dr/holdfast/internal/dr"
	"github.com/holdfast-dr/holdfast/internal/seal"
	"github.com/holdfast-dr/holdfast/internal/store"
)

// ErrAborted is the error of Commit where a collection lost its patience with this writer first. What it
// stored may be gone; the snapshot does not exist and has to be taken again.
var ErrAborted = errors.New("the snapshot was aborted by a collection that waited too long for it")

// Writer makes one snapshot. Chunks are saved through Lanes; Commit makes the snapshot exist, and until then it
// does not. One of Commit and Close must be called; Close after Commit does nothing. Between Finish and Commit what was
// saved can be read, and no more be saved.
type Writer struct {
	r         *Repository
	system    string
	group     ResidencyGroup
	id        SnapshotID
	started   time.Time
	rewrites  *Manifest // the snapshot that this one takes the place of; nil: none
	copies    bool      // the snapshot exists in another replica
	intent    string    // the object that announces the writer
	replica   string    // in which generation counts
	condemned map[PackID]bool
	// generation is the number of the last collection that was published before the index was read.
	generation uint32
	// known is nil, or the older index objects that the collection which is under way is sure to keep.
	known map[string]bool
	// considered are the snapshot objects that this collection has marked.
	considered []string

	uploads chan *packBuilder
	bufs    chan []byte // empty pack buffers; the bound on memory
	eg      *errgroup.Group
	ctx     context.Context //nolint:containedctx // of the uploaders, which live as long as the Writer

	lanes []*Lane
	meta  *Lane
	metaM sync.Mutex // guards meta's use: lists and tree nodes come from every goroutine

	mu      sync.Mutex // guards claimed, carried, pending, stats. Not held during I/O
	claimed map[seal.ChunkID]bool
	carried map[string]bool // roots of trees that MayCarry has allowed
	pending indexData
	stats   WriteStats

	closed   bool
	finished bool
	failed   error // of Finish
}

// WriteStats counts what a writer did. Bytes are of chunks in plain form unless the name says stored.
type WriteStats struct {
	Chunks       int64 `json:"chunks"`
	Bytes        int64 `json:"bytes"`
	NewChunks    int64 `json:"newChunks"`
	NewBytes     int64 `json:"newBytes"`
	StoredBytes  int64 `json:"storedBytes"`
	PacksWritten int64 `json:"packsWritten"`
}

const uploaders = 2

type intent struct {
	System   string     `json:"system"`
	Snapshot SnapshotID `json:"snapshot"`
	Host     string     `json:"host,omitempty"`
	Started  time.Time  `json:"started"`
}

// Begin starts a snapshot of system, and registers it where it is new. It creates the intent, on which every
// collection waits from now on. ctx must live as long as the Writer. ErrKeysRotated is in the error where the
// repository must be opened again.
func (r *Repository) Begin(ctx context.Context, system string, group ResidencyGroup) (*Writer, error) {
	now := r.opts.Now()
	return r.begin(ctx, &Writer{r: r, system: system, group: group, id: NewSnapshotID(now), started: now.UTC()})
}

// beginRewrite starts a snapshot that will take the place of another one, of whose moment it tells the same.
func (r *Repository) beginRewrite(ctx context.Context, m *Manifest) (*Writer, error) {
	return r.begin(ctx, &Writer{r: r, system: m.System, group: m.Group, id: m.ID.rewritten(), started: r.opts.Now().UTC(), rewrites: m})
}

func (r *Repository) begin(ctx context.Context, w *Writer) (*Writer, error) {
	system, group := w.system, w.group
	if err := group.Check(); err != nil {
		return nil, err
	}
	if r.opts.Signer == nil {
		return nil, errors.New("a writer needs a signer")
	}
	if _, err := r.refreshKeys(ctx); err != nil {
		return nil, err
	}
	if err := r.registerSystem(ctx, system, group); err != nil {
		return nil, err
	}
	if err := r.registerSigner(ctx); err != nil {
		return nil, err
	}
	var err error
	if w.replica, err = r.Replica(ctx); err != nil {
		return nil, err
	}
	w.claimed = map[seal.ChunkID]bool{}
	w.intent = r.intentName(system, w.id)
	if w.copies {
		w.intent += "." + randomHex(4) // another copier may be at it: each is waited for
	}
	if err := w.createIntent(ctx); err != nil {
		return nil, err
	}
	// The order matters: intent, condemned list, index. A collection that is published after we look waits for
	// our intent; one that is done no longer has its doomed packs in the index.
	v, err := r.loadIndex(ctx)
	if err == nil {
		err = v.damaged
	}
	if err != nil {
		return nil, errors.Join(err, w.deleteIntent(context.WithoutCancel(ctx)))
	}
	w.condemned, w.known, w.considered, w.generation = v.condemned, v.known, v.considered, v.highest
	w.start(ctx)
	return w, nil
}

func (w *Writer) createIntent(ctx context.Context) error {
	body, err := json.Marshal(intent{w.system, w.id, w.r.opts.Host, w.started})
	if err != nil {
		return err
	}
	if err := w.r.store.Create(ctx, w.intent, w.r.keys.SealWhole(seal.KindIntent, w.intent, body)); err != nil {
		return fmt.Errorf("announce the snapshot: %w", err)
	}
	return nil
}

func (w *Writer) deleteIntent(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	return w.r.store.Delete(ctx, w.intent)
}

func (w *Writer) start(ctx context.Context) {
	w.eg, w.ctx = errgroup.WithContext(ctx)
	w.uploads = make(chan *packBuilder)
	w.bufs = make(chan []byte, 64)
	for range uploaders {
		w.bufs <- nil
		w.eg.Go(w.upload)
	}
	w.meta = w.newLane()
}

// upload puts finished packs until the channel is closed.
func (w *Writer) upload() error {
	for b := range w.uploads {
		name := packName(b.group, b.id)
		if err := w.r.store.Put(w.ctx, name, b.buf); err != nil {
			return fmt.Errorf("write pack: %w", err)
		}
		ref := &packRef{group: b.group, id: b.id, header: b.object.Header(), size: uint32(len(b.buf))}
		if err := w.packDone(ref, b.entries); err != nil {
			return err
		}
		w.bufs <- b.buf[:0]
	}
	return nil
}

func (w *Writer) packDone(ref *packRef, entries []chunkPlace) error {
	w.mu.Lock()
	w.pending.add(ref, entries)
	w.stats.PacksWritten++
	w.stats.StoredBytes += int64(ref.size)
	var full indexData
	if len(w.pending.entries) >= w.r.limits.indexEvery {
		full, w.pending = w.pending, indexData{}
	}
	w.mu.Unlock()
	return w.writeIndex(w.ctx, &full)
}

// writeIndex puts an index object of packs that the store holds, and makes the chunks findable.
func (w *Writer) writeIndex(ctx context.Context, d *indexData) error {
	if len(d.packs) == 0 {
		return nil
	}
	if err := w.r.putIndex(ctx, newIndexName(prefixIndex, w.group, w.generation), d); err != nil {
		return err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, e := range d.entries {
		delete(w.claimed, e.id)
	}
	return nil
}

func (r *Repository) putIndex(ctx context.Context, name string, d *indexData) error {
	if err := r.writeIndexObject(ctx, name, d); err != nil {
		return err
	}
	return r.index.add(name, d)
}

func (r *Repository) writeIndexObject(ctx context.Context, name string, d *indexData) error {
	d.sort()
	for _, p := range d.packs {
		p.source = name
	}
	if err := r.store.Put(ctx, name, r.keys.SealWhole(seal.KindIndex, name, d.marshal())); err != nil {
		return fmt.Errorf("write index: %w", err)
	}
	return nil
}

// claim reports whether the caller has to store the chunk: nobody has it and nobody else is storing it.
func (w *Writer) claim(id seal.ChunkID, size int) (bool, error) {
	// Looked up outside of the lock, since it reads from disk. A chunk that another lane has stored since is
	// stored twice at worst.
	l, ok, err := w.r.index.find(id)
	if err != nil {
		return false, err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.stats.Chunks++
	w.stats.Bytes += int64(size)
	if w.claimed[id] {
		return false, nil
	}
	if ok && w.shares(l.pack) {
		return false, nil
	}
	w.claimed[id] = true
	w.stats.NewChunks++
	w.stats.NewBytes += int64(size)
	return true, nil
}

// shares reports whether the snapshot may refer to chunks in a pack. While a collection is under way, an index object
// of an older writer that it has not seen may come from one that was aborted: it will not count any more when the
// collection is done, and nobody would find the chunks.
func (w *Writer) shares(p *packRef) bool {
	if w.condemned[p.id] || p.source == "" { // the second is lent by the pack itself: no index object names it
		return false
	}
	if w.known == nil || w.known[p.source] {
		return true
	}
	_, generation, ok := parseIndexName(p.source)
	return ok && generation >= w.generation
}

// saveMeta stores a list or a tree node, in packs apart from the data's: whoever reads the tree alone reads
// few and small packs.
func (w *Writer) saveMeta(ctx context.Context, plain []byte) (seal.ChunkID, error) {
	w.metaM.Lock()
	defer w.metaM.Unlock()
	return w.meta.Save(ctx, plain, nil)
}

// ID returns the snapshot's ID.
func (w *Writer) ID() SnapshotID { return w.id }

// Started returns when the snapshot was begun, as its manifest will say.
func (w *Writer) Started() time.Time { return w.started }

// Stats returns what was done so far.
func (w *Writer) Stats() WriteStats {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.stats
}

// Finish brings everything that was saved into the store, and makes it findable. The lanes' users must have stopped.
// Commit does it where nobody has.
func (w *Writer) Finish(ctx context.Context) error {
	if !w.finished {
		w.finished = true
		w.failed = w.finish(ctx)
	}
	return w.failed
}

func (w *Writer) finish(ctx context.Context) error {
	var err error
	for _, l := range w.lanes {
		if err == nil {
			err = l.flush(ctx)
		}
	}
	if uploadErr := w.drain(); uploadErr != nil {
		return uploadErr // the lanes' error, if any, only follows from it
	}
	if err != nil {
		return err
	}
	return w.writeIndex(ctx, &w.pending)
}

// drain lets the uploaders finish what they were given, and end.
func (w *Writer) drain() error {
	close(w.uploads)
	return w.eg.Wait()
}

// Commit stores what is left, then creates the snapshot with this manifest, whose fields System, ID, Group,
// Repository, Host, Started, Finished, Generation, Replica, Written and Signer it sets. When it returns nil the snapshot exists, durably.
func (w *Writer) Commit(ctx context.Context, m *Manifest) error {
	if w.closed {
		return errors.New("commit of a closed writer")
	}
	w.closed = true
	if err := w.Finish(ctx); err != nil {
		return errors.Join(err, w.deleteIntent(context.WithoutCancel(ctx)))
	}
	m.Version, m.Repository, m.System, m.ID, m.Group = 1, w.r.id, w.system, w.id, w.group
	m.Started, m.Finished, m.Host, m.Written = w.started, w.r.opts.Now().UTC(), w.r.opts.Host, w.Stats()
	m.Generation, m.Replica = w.generation, w.replica
	if o := w.rewrites; o != nil {
		m.Started, m.Finished, m.Host, m.Rewrites = o.Started, o.Finished, o.Host, o.Moment()
	}
	name := w.r.snapshotName(w.system, w.id)
	body, err := w.r.signManifest(m)
	if err != nil {
		return errors.Join(err, w.deleteIntent(context.WithoutCancel(ctx)))
	}
	return w.create(ctx, name, w.r.keys.SealWhole(seal.KindSnapshot, name, body))
}

// create makes the snapshot exist, if its name is not taken.
func (w *Writer) create(ctx context.Context, name string, object []byte) error {
	err := w.r.store.Create(ctx, name, object)
	switch {
	case errors.Is(err, store.ErrExists):
		// The name is taken for ever, so nobody needs to wait for us.
		_ = w.deleteIntent(context.WithoutCancel(ctx))
		return dr.Fail(fmt.Sprintf("snapshot %s of %s", w.id, w.system), ErrAborted, "run it again")
	case err != nil:
		// It may have been created all the same: the intent stays, so that a collection settles it.
		return fmt.Errorf("create the snapshot: %w", err)
	}
	if err := w.deleteIntent(context.WithoutCancel(ctx)); err != nil {
		return nil // the snapshot exists; a collection removes the intent of a finished writer
	}
	return nil
}

// Close gives up what was not committed. The packs written so far are removed by a later collection.
func (w *Writer) Close(ctx context.Context) error {
	if w.closed {
		return nil
	}
	w.closed = true
	var err error
	if !w.finished {
		err = w.drain()
	}
	// Nothing of ours can create the snapshot any more, so the intent may go.
	return errors.Join(err, w.deleteIntent(context.WithoutCancel(ctx)))
}
