package repo

import (
	"context"
	"errors"

	"github.com/holdfast-dr/holdfast/internal/store"
)

// Stats are figures of a repository. Bytes are as stored unless they are called logical or plain.
type Stats struct {
	Snapshots    int           `json:"snapshots"`
	Unreadable   int           `json:"unreadable"`   // snapshots that cannot be read, which are not in the figures
	LogicalBytes int64         `json:"logicalBytes"` // of the files of all snapshots together
	PlainBytes   int64         `json:"plainBytes"`   // of the distinct chunks, before compression
	Packs        int           `json:"packs"`
	PackBytes    int64         `json:"packBytes"`
	Chunks       int64         `json:"chunks"` // distinct
	IndexObjects int           `json:"indexObjects"`
	IndexBytes   int64         `json:"indexBytes"`
	Systems      []SystemStats `json:"systems"` // by name
}

// SystemStats are figures of one system.
type SystemStats struct {
	Name         string         `json:"name"`
	Group        ResidencyGroup `json:"group"`
	Snapshots    int            `json:"snapshots"`
	LogicalBytes int64          `json:"logicalBytes"` // of the files of its snapshots
	LogExtents   int            `json:"logExtents"`
	LogBytes     int64          `json:"logBytes"` // stored
	// Fragmentation is that of the newest snapshot; nil where there is none.
	Fragmentation *Fragmentation `json:"fragmentation,omitempty"`
}

// DedupRatio is how many logical bytes one plain byte stands for; 0 where there is nothing.
func (s *Stats) DedupRatio() float64 { return ratio(s.LogicalBytes, s.PlainBytes) }

// CompressionRatio is how many plain bytes one stored byte stands for; 0 where there is nothing.
func (s *Stats) CompressionRatio() float64 { return ratio(s.PlainBytes, s.PackBytes) }

func ratio(a, b int64) float64 {
	if b == 0 {
		return 0
	}
	return float64(a) / float64(b)
}

// Stats counts. It lists everything once, and reads manifests and index, and the tree and the lists of each newest snapshot.
func (r *Repository) Stats(ctx context.Context) (*Stats, error) {
	s := &Stats{}
	systems, err := r.Systems(ctx)
	if err != nil {
		return nil, err
	}
	for _, system := range systems {
		one, err := r.systemStats(ctx, system, s)
		if err != nil {
			return nil, err
		}
		s.Systems = append(s.Systems, one)
	}
	err = r.store.List(ctx, prefixPacks, "", func(i store.Info) error {
		s.Packs, s.PackBytes = s.Packs+1, s.PackBytes+i.Size
		return nil
	})
	for _, prefix := range []string{prefixIndex, prefixBase} {
		if err == nil {
			err = r.store.List(ctx, prefix, "", func(i store.Info) error {
				s.IndexObjects, s.IndexBytes = s.IndexObjects+1, s.IndexBytes+i.Size
				return nil
			})
		}
	}
	if err != nil {
		return nil, err
	}
	if _, err := r.loadIndex(ctx); err != nil {
		return nil, err
	}
	return s, r.index.each(func(l location) error {
		s.Chunks, s.PlainBytes = s.Chunks+1, s.PlainBytes+int64(l.plain)
		return nil
	})
}

func (r *Repository) systemStats(ctx context.Context, system System, s *Stats) (SystemStats, error) {
	one := SystemStats{Name: system.Name, Group: system.Group}
	list, err := r.Snapshots(ctx, system.Name)
	if err != nil {
		return one, err
	}
	var newest *Manifest
	for _, l := range list {
		if l.Err != nil {
			s.Unreadable++
			continue
		}
		one.Snapshots, one.LogicalBytes = one.Snapshots+1, one.LogicalBytes+l.Manifest.Bytes
		newest = l.Manifest
	}
	if newest != nil {
		f, err := r.fragmentationOf(ctx, newest)
		var broken *ChunkError
		switch {
		case err == nil:
			one.Fragmentation = &f
		case !errors.As(err, &broken): // a list that cannot be read is for Check to tell of
			return one, err
		}
	}
	s.Snapshots, s.LogicalBytes = s.Snapshots+one.Snapshots, s.LogicalBytes+one.LogicalBytes
	err = r.store.List(ctx, prefixLog+r.keys.NameHash(system.Name)+"/", "", func(i store.Info) error {
		one.LogExtents, one.LogBytes = one.LogExtents+1, one.LogBytes+i.Size
		return nil
	})
	return one, err
}
