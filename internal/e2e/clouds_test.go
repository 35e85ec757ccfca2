package e2e

import (
	"net/url"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/holdfast-dr/holdfast/internal/pg/pgtest"
	"github.com/holdfast-dr/holdfast/internal/store/storetest"
)

// TestClouds keeps a repository in Google Cloud Storage with a replica in Azure Blob Storage, and recovers from each,
// from the second when the first is gone.
func TestClouds(t *testing.T) {
	t.Parallel()
	google := storetest.GCS(t)
	w := newWorld(t, pgtest.Options{Version: "15"})
	w.env = []string{"GOOGLE_APPLICATION_CREDENTIALS=" + w.write("google.json", read(google.KeyFile))}
	s := setup{url: "gs://" + google.Bucket + "/hf?endpoint=" + url.QueryEscape(google.Endpoint)}
	w.configure(s)
	w.run("repo", "init")
	w.server.Exec("", "CREATE TABLE big AS SELECT i, md5(i::text) AS v FROM generate_series(1, 50000) AS i")
	w.run("snapshot", "create", system)
	want := digest(t, w.server.ConnString, true)
	recovered := func(from string, args ...string) {
		t.Helper()
		r := w.restore(from, append([]string{"--start"}, args...)...)
		if d := cmp.Diff(want, digest(t, r.connString, false)); d != "" {
			t.Errorf("from %s: -source +restored:\n%s", from, d)
		}
		r.stop()
	}
	recovered("google")

	azure := storetest.Azurite(t)
	w.env = append(w.env, "AZURE_STORAGE_KEY="+azure.Key)
	s.other = "azblob://" + azure.Account + "/" + azure.Container + "/hf?endpoint=" + url.QueryEscape(azure.Endpoint)
	w.configure(s)
	w.run("geo", "copy")
	google.Kill()
	recovered("azure", "--site", "there")
	w.run("repo", "check", "--site", "there", "--read-data")
}
