package e2e

import (
	"context"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	awss3 "github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"
	"github.com/google/go-cmp/cmp"

	"github.com/holdfast-dr/holdfast/internal/pg/pgtest"
	"github.com/holdfast-dr/holdfast/internal/store/storetest"
)

// TestThief protects a database with a writer's credentials in a locked bucket. A thief who has them does with every object
// whatever he can; afterwards everything is restored.
func TestThief(t *testing.T) {
	t.Parallel()
	srv := storetest.S3Locked(t, "writer")
	srv.Allow(t, "hf", "writer")
	// This server tells of a version that was replaced when that was, and not when it was written (versitygw 1.8.0): what was
	// there at a time cannot be known.
	theft(t, srv, "writer", false)
}

// TestThiefWithTheOwnersKeys is TestThief with the keys of the bucket's owner, who can hide everything, on another maker's server:
// what was there before is also restored as of then.
func TestThiefWithTheOwnersKeys(t *testing.T) {
	t.Parallel()
	binary := os.Getenv("HOLDFAST_TEST_MINIO")
	if binary == "" {
		t.Skip("HOLDFAST_TEST_MINIO names no binary: make test-minio builds one")
	}
	theft(t, storetest.MinioLocked(t, binary), "", true)
}

func theft(t *testing.T, srv *storetest.S3Server, user string, asOf bool) {
	t.Helper()
	w := newWorld(t, pgtest.Options{Version: "15"})
	keys, err := srv.KeysOf(user).Retrieve(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	w.env = []string{"AWS_ACCESS_KEY_ID=" + keys.AccessKeyID, "AWS_SECRET_ACCESS_KEY=" + keys.SecretAccessKey, "AWS_EC2_METADATA_DISABLED=true"}
	w.configure(setup{url: s3URL(srv, srv.Endpoint), lock: "{mode: compliance, for: 30d}"})
	w.run("repo", "init")
	if out := w.run("repo", "lock", "--now"); !strings.Contains(out, "locked until") || !strings.Contains(out, "renewed") {
		t.Errorf("repo lock says %q", out)
	}
	agent := w.agent()
	w.server.Exec("", ledgerTable, "INSERT INTO book SELECT i::text, md5(i::text) FROM generate_series(1, 5000) AS i")
	w.run("snapshot", "create", system)
	w.server.Exec("", "INSERT INTO book SELECT 'more ' || i, md5(i::text) FROM generate_series(1, 5000) AS i")
	w.run("snapshot", "create", system)
	w.server.Exec("", "INSERT INTO book VALUES ('last', '')")
	w.logReaches(1, w.server.Query("", "SELECT pg_current_wal_flush_lsn()"))
	if out := w.try("doctor").out; strings.Contains(out, "the credentials may not remove versions for good") == (user == "") {
		t.Errorf("the doctor says of %q:\n%s", user, out)
	}
	want := digest(t, w.server.ConnString, true)
	w.server.Stop(pgtest.Fast)
	agent.stop()
	w.run("repo", "check", "--read-data")

	before := time.Now().UTC().Truncate(time.Second)
	w.until("the next second", func() bool { return time.Now().UTC().After(before.Add(1100 * time.Millisecond)) })
	robbed := rob(t, srv, user)
	t.Logf("%d objects were robbed", robbed)

	if r := w.try("repo", "check"); r.code != 3 || !strings.Contains(r.out, "an earlier") {
		t.Errorf("after the theft a check ends with %d\n%s%s", r.code, r.out, r.stderr)
	}
	then := before.Format(time.RFC3339)
	wantRestored := func(name string, args ...string) {
		t.Helper()
		r := w.restore(name, append([]string{"--start"}, args...)...)
		if d := cmp.Diff(want, digest(t, r.connString, false)); d != "" {
			t.Errorf("-source +restored %v:\n%s", args, d)
		}
		r.stop()
	}
	if asOf {
		w.run("repo", "check", "--read-data", "--as-of", then)
		wantRestored("then", "--as-of", then)
	}
	if out := w.run("repo", "check", "--repair"); !strings.Contains(out, "put back:") {
		t.Errorf("the repair says\n%s", out)
	}
	w.run("repo", "check", "--read-data")
	wantRestored("now")
}

// rob overwrites every second object, hides what it can, and tries to destroy all versions. It returns how many objects there were.
func rob(t *testing.T, srv *storetest.S3Server, user string) int {
	t.Helper()
	ctx, thief := t.Context(), srv.Client(user)
	list, err := thief.ListObjectVersions(ctx, &awss3.ListObjectVersionsInput{Bucket: &srv.Bucket})
	if err != nil || aws.ToBool(list.IsTruncated) {
		t.Fatal(err, "or there are more objects than expected")
	}
	n := 0
	for i, v := range list.Versions {
		for what, destroy := range map[string]func(context.Context) error{
			"delete": func(ctx context.Context) error {
				_, err := thief.DeleteObject(ctx, &awss3.DeleteObjectInput{Bucket: &srv.Bucket, Key: v.Key, VersionId: v.VersionId, BypassGovernanceRetention: aws.Bool(true)})
				return err
			},
			"shorten": func(ctx context.Context) error {
				_, err := thief.PutObjectRetention(ctx, &awss3.PutObjectRetentionInput{
					Bucket: &srv.Bucket, Key: v.Key, VersionId: v.VersionId, BypassGovernanceRetention: aws.Bool(true),
					Retention: &types.ObjectLockRetention{Mode: types.ObjectLockRetentionModeCompliance, RetainUntilDate: aws.Time(time.Now().Add(time.Hour))},
				})
				return err
			},
		} {
			if strings.HasPrefix(aws.ToString(v.Key), "hf/probe/") {
				continue
			}
			if err := destroy(ctx); err == nil {
				t.Errorf("%s of a version of %s succeeds", what, *v.Key)
			}
		}
		if !aws.ToBool(v.IsLatest) {
			continue
		}
		n++
		// It is refused where a writer has nothing to delete.
		_, _ = thief.DeleteObject(ctx, &awss3.DeleteObjectInput{Bucket: &srv.Bucket, Key: v.Key})
		if i%2 == 0 && !strings.HasPrefix(*v.Key, "hf/log/") && !strings.HasPrefix(*v.Key, "hf/marks/") {
			if _, err := thief.PutObject(ctx, &awss3.PutObjectInput{Bucket: &srv.Bucket, Key: v.Key, Body: strings.NewReader(fmt.Sprint("garbage ", i))}); err != nil {
				t.Error(err)
			}
		}
	}
	return n
}
