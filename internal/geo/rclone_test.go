package geo_test

import (
	"bytes"
	"context"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-dr/holdfast/internal/geo"
	"github.com/holdfast-dr/holdfast/internal/repo"
	"github.com/holdfast-dr/holdfast/internal/repo/repotest"
	"github.com/holdfast-dr/holdfast/internal/seal"
	"github.com/holdfast-dr/holdfast/internal/store"
	"github.com/holdfast-dr/holdfast/internal/store/s3"
	"github.com/holdfast-dr/holdfast/internal/store/storetest"
)

var (
	copyMiB    = flag.Int("copy.mib", 0, "TestCopyBesideRclone copies a repository of so many MiB; 0 skips it")
	copyRounds = flag.Int("copy.rounds", 3, "how often")
)

// TestCopyBesideRclone copies a repository from one S3 server to another, in turn by geo.Copy and by rclone, which has to be
// installed; the other server is near, or 50 ms away. bench/README.md has the figures. It asserts nothing about time.
func TestCopyBesideRclone(t *testing.T) {
	if *copyMiB == 0 {
		t.Skip("a measurement: give -copy.mib")
	}
	rclone, err := exec.LookPath("rclone")
	if err != nil {
		t.Skip("rclone is not installed")
	}
	signer, err := seal.NewSigner()
	if err != nil {
		t.Fatal(err)
	}
	source := storetest.S3(t)
	r := repotest.Init(t, source.Open(t, "repository"), repo.Options{Signer: signer})
	l := r.Log("db")
	if err := l.Register(t.Context(), "main"); err != nil {
		t.Fatal(err)
	}
	halfRandom(t, r, *copyMiB)
	for _, delay := range []time.Duration{0, 25 * time.Millisecond} { // each way
		target := storetest.S3(t)
		proxy := storetest.NewProxy(t, target.Endpoint)
		proxy.Delay(delay)
		seconds := map[string][]float64{}
		names := []string{"holdfast", "rclone --transfers 4", "rclone --transfers 16"}
		for round := range *copyRounds {
			for i := range names {
				name := names[(i+round)%len(names)]
				prefix := fmt.Sprintf("round-%d-%d", round, i)
				began := time.Now()
				if name == "holdfast" {
					copyHoldfast(t, r, signer, proxied(target, proxy, prefix))
				} else {
					copyRclone(t, rclone, strings.Fields(name)[1:], source, target, proxy.Endpoint, prefix)
				}
				s := time.Since(began).Seconds()
				seconds[name] = append(seconds[name], s)
				t.Logf("%3d ms, round %d: %-22s %6.2f s, %4.0f MB/s", 2*delay.Milliseconds(), round+1, name, s, stored(t, target, prefix)/s/1e6)
				if err := os.RemoveAll(target.Dir + "/" + prefix); err != nil {
					t.Fatal(err)
				}
			}
		}
		for _, name := range names {
			slices.Sort(seconds[name])
		}
		median := func(name string) float64 { return seconds[name][len(seconds[name])/2] }
		t.Logf("%d ms: throughput of holdfast ÷ rclone's, medians: %.2f with 4 transfers, %.2f with 16",
			2*delay.Milliseconds(), median(names[1])/median(names[0]), median(names[2])/median(names[0]))
	}
}

func proxied(target *storetest.S3Server, p *storetest.Proxy, prefix string) s3.Options {
	o := target.Options(prefix)
	o.Endpoint = p.Endpoint
	return o
}

func copyHoldfast(t *testing.T, r *repo.Repository, signer *seal.Signer, o s3.Options) {
	t.Helper()
	st, err := s3.Open(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	defer st.Close() //nolint:errcheck // connections
	if err := r.CopyKeys(t.Context(), st); err != nil {
		t.Fatal(err)
	}
	other, err := r.Beside(t.Context(), st, repo.Options{CacheDir: t.TempDir(), Signer: signer})
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close() //nolint:errcheck // a cache
	report, err := geo.Copy(t.Context(), r, other, "db", geo.Options{
		Keep:   func(all []*repo.Manifest) []*repo.Manifest { return all },
		Floors: func(context.Context, []*repo.Manifest) (map[repo.StreamID]uint64, error) { return nil, nil },
	})
	if err != nil || len(report.Snapshots) != 1 {
		t.Fatalf("%+v, %v", report, err)
	}
}

func copyRclone(t *testing.T, rclone string, args []string, source, target *storetest.S3Server, endpoint, prefix string) {
	t.Helper()
	cmd := exec.Command(rclone, append(args, "copy", "source:"+source.Bucket+"/repository", "target:"+target.Bucket+"/"+prefix)...) //nolint:gosec // a measurement
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + t.TempDir(), "RCLONE_CONFIG=" + t.TempDir() + "/none"}
	for name, s := range map[string][3]string{
		"SOURCE": {source.Endpoint, source.AccessKey, source.SecretKey}, "TARGET": {endpoint, target.AccessKey, target.SecretKey},
	} {
		p := "RCLONE_CONFIG_" + name + "_"
		cmd.Env = append(cmd.Env, p+"TYPE=s3", p+"PROVIDER=Other", p+"ENDPOINT="+s[0], p+"ACCESS_KEY_ID="+s[1], p+"SECRET_ACCESS_KEY="+s[2],
			p+"REGION=us-east-1", p+"NO_CHECK_BUCKET=true")
	}
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("rclone: %v\n%s", err, out)
	}
}

// stored returns how many bytes a server keeps below a prefix.
func stored(t *testing.T, s *storetest.S3Server, prefix string) (n float64) {
	t.Helper()
	st := s.Open(t, prefix)
	defer st.Close() //nolint:errcheck // connections
	if err := st.List(t.Context(), "", "", func(i store.Info) error { n += float64(i.Size); return nil }); err != nil {
		t.Fatal(err)
	}
	return n
}

// halfRandom takes a snapshot that is stored in so many MiB: its bytes compress to half.
func halfRandom(t *testing.T, r *repo.Repository, mib int) {
	t.Helper()
	w, err := r.Begin(t.Context(), "db", "main")
	if err != nil {
		t.Fatal(err)
	}
	m, tree, lane := &repo.Manifest{}, w.NewTree(t.Context()), w.Lane()
	random, b := rand.NewChaCha8([32]byte{1}), bytes.Repeat([]byte("half of it "), repo.Grid/11+1)[:repo.Grid]
	for f := 0; f < mib; f += 64 {
		var ids []seal.ChunkID
		for range 256 { // of 512 KiB, stored as 256
			_, _ = random.Read(b[:repo.Grid/2])
			id, err := lane.Save(t.Context(), b, nil)
			if err != nil {
				t.Fatal(err)
			}
			ids = append(ids, id)
		}
		list, err := w.SaveList(t.Context(), ids, 256*repo.Grid)
		if err != nil {
			t.Fatal(err)
		}
		e := &repo.Entry{Type: repo.TypeFile}
		e.SetContent(256*repo.Grid, []repo.FileList{list})
		if err := tree.Add(fmt.Sprintf("base/%06d", f), e); err != nil {
			t.Fatal(err)
		}
	}
	if err := tree.Finish(m); err != nil {
		t.Fatal(err)
	}
	if err := w.Commit(t.Context(), m); err != nil {
		t.Fatal(err)
	}
}
