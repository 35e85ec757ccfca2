package boot

import (
	"context"
	"math"
	"path/filepath"

	"golang.org/x/sync/errgroup"

	"github.com/holdfast-dr/holdfast/internal/pg/wal"
	"github.com/holdfast-dr/holdfast/internal/restore"
	"github.com/holdfast-dr/holdfast/internal/restore/walserve"
)

// serveLog serves the log to the server's restore_command from this process, which has the repository open, until
// stop is called: the server's user then needs neither the configuration nor the keys. It returns when requests are
// answered. Where the server recovers longer than this process watches it, its restore_command works for itself.
func (b *booting) serveLog(ctx context.Context) (stop func() error, err error) {
	if b.opts.Log == nil {
		return func() error { return nil }, nil
	}
	source := walserve.NewSource(b.opts.Log, restore.LogPolicy(b.plan))
	source.DataDir, source.Owner = b.dir, b.opts.Owner.Credential()
	listening := make(chan struct{})
	size := wal.SegmentSize(b.plan.Snapshot.Facts.SegmentSize)
	first := size.Segment(b.plan.Snapshot.Facts.StartLSN)
	p := &walserve.Prefetcher{
		Source: source, Listening: func() { close(listening) },
		Begin: wal.SegmentName(b.plan.Way.At(size.Start(first+1)-1), first, size), Way: b.plan.Way,
		Idle: math.MaxInt64, // one segment may take long to replay, and nobody else can serve the next
	}
	ctx, cancel := context.WithCancel(ctx)
	var g errgroup.Group
	g.Go(func() error {
		defer cancel()
		return p.Run(ctx, filepath.Join(b.dir, "pg_wal"))
	})
	stop = func() error {
		cancel()
		err := g.Wait()
		if s := p.Stats(); s.Segments > 0 {
			b.report.Log = &s
		}
		return err
	}
	select {
	case <-listening:
		return stop, nil
	case <-ctx.Done(): // it has ended: somebody else serves already, or there is an error
		return stop, stop()
	}
}

// endPrefetcher ends what the restore_command may have started, where it is left to itself.
func (b *booting) endPrefetcher(ctx context.Context) {
	if b.opts.Log == nil {
		walserve.Stop(ctx, b.dir)
	}
}
