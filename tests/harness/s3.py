"""Real S3 servers for the stories, on loopback: ministack (PyPI), with users and keys; what scripts/setup installed."""
import os
import subprocess
from pathlib import Path

from .stories import secret, until

ROOT_KEY, ROOT_SECRET = "rootkey0000000000000", "rootsecret"
BUCKET = "backups"
# Run by the servers' own Python: a user that may do everything on S3, its key, and a bucket.
ADMIN = """\
import boto3, json, sys
where = dict(endpoint_url=sys.argv[1], region_name="us-east-1", aws_access_key_id=sys.argv[2], aws_secret_access_key=sys.argv[3])
iam = boto3.client("iam", **where)
iam.create_user(UserName="rekindle")
policy = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "s3:*", "Resource": "*"}]}
iam.put_user_policy(UserName="rekindle", PolicyName="s3", PolicyDocument=json.dumps(policy))
key = iam.create_access_key(UserName="rekindle")["AccessKey"]
boto3.client("s3", **where).create_bucket(Bucket=sys.argv[4])
print("[default]\\naws_access_key_id = %s\\naws_secret_access_key = %s" % (key["AccessKeyId"], key["SecretAccessKey"]))
"""
# Its thaws take two seconds unless told otherwise; with `day_seconds` the days that they last are so long; uploads that were not finished are as many hours older than they are as the file says.
SERVE = """\
import datetime, pathlib, re, sys, ministack.app as app
import ministack.services.s3 as s3
s3._RESTORE_DELAY_SECONDS, day, age = float(sys.argv.pop(1)), float(sys.argv.pop(1)), pathlib.Path(sys.argv.pop(1))
if day:
    s3._restore_expiry_epoch = lambda start, days: start + days * day
listed = s3._list_multipart_uploads
def older(time):
    then = datetime.datetime.fromisoformat(time[1].decode().replace("Z", "+00:00")) - datetime.timedelta(hours=float(age.read_text()))
    return b"<Initiated>%s</Initiated>" % then.strftime("%Y-%m-%dT%H:%M:%S.000Z").encode()
def list_older(*arguments):
    status, headers, body = listed(*arguments)
    return status, headers, re.sub(rb"<Initiated>(.*?)</Initiated>", older, body) if age.exists() else body
s3._list_multipart_uploads = list_older
app.main()
"""


def folder():
    return Path(os.environ.get("REKINDLE_S3_SERVERS") or Path.home() / ".cache" / "rekindle-s3-servers")


class Ministack:
    """A context: a server with one bucket. `credentials` is a file in the format of ~/.aws/credentials. `tls`: the files of an authority, and of a certificate of its and the key."""

    bucket = BUCKET

    def __init__(self, folder, port=9100, thaw_seconds=2.0, tls=None, day_seconds=0.0):
        self.folder, self.port, self.thaw_seconds, self.tls, self.day_seconds = Path(folder), port, thaw_seconds, tls, day_seconds
        self.uploads_age = self.folder / "uploads-age"
        self.endpoint = f"{'https' if tls else 'http'}://127.0.0.1:{port}"

    def __enter__(self):
        self.start()
        made = subprocess.run([python(), "-c", ADMIN, self.endpoint, ROOT_KEY, ROOT_SECRET, BUCKET], check=True, stdout=subprocess.PIPE, text=True, env=self._environment())
        self.credentials = secret(self.folder / "s3-credentials", made.stdout)
        return self

    def start(self):
        log = open(self.folder / "ministack.log", "ab")
        with log:
            arguments = [str(self.thaw_seconds), str(self.day_seconds), str(self.uploads_age)]
            self.process = subprocess.Popen([python(), "-c", SERVE, *arguments], env=self._environment(), stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        until("ministack answers", self._answers, seconds=60)

    def stop(self):
        self.process.kill()
        self.process.wait()

    def __exit__(self, *_):
        self.stop()

    def _answers(self):
        if self.process.poll() is not None:
            raise RuntimeError(f"ministack ended: {(self.folder / 'ministack.log').read_text()[-500:]}")
        code = "import socket, sys; socket.create_connection(('127.0.0.1', int(sys.argv[1])), 1)"
        return subprocess.run([python(), "-c", code, str(self.port)], stderr=subprocess.DEVNULL, check=False).returncode == 0

    def boto(self, code, *arguments):
        """What Python prints that has a client `s3` of this server, and `bucket`."""
        head = ("import boto3, json, sys\ns3 = boto3.client('s3', endpoint_url=sys.argv[1], region_name='us-east-1', "
                "aws_access_key_id=sys.argv[2], aws_secret_access_key=sys.argv[3])\nbucket = sys.argv[4]\n")
        command = [python(), "-c", head + code, self.endpoint, ROOT_KEY, ROOT_SECRET, BUCKET, *map(str, arguments)]
        return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=self._environment()).stdout

    def _environment(self):
        environment = {**os.environ, "BIND_HOST": "127.0.0.1", "GATEWAY_PORT": str(self.port), "AUTH": "true", "S3_PERSIST": "1",
                       "S3_DATA_DIR": str(self.folder / "ministack"), "AWS_ACCESS_KEY_ID": ROOT_KEY, "AWS_SECRET_ACCESS_KEY": ROOT_SECRET}
        if self.tls:
            authority, certificate, key = self.tls
            environment |= {"USE_SSL": "1", "MINISTACK_SSL_CERT": str(certificate), "MINISTACK_SSL_KEY": str(key), "AWS_CA_BUNDLE": str(authority)}
        return environment


def python():
    found = folder() / "bin" / "python"
    if not found.exists():
        raise RuntimeError(f"no S3 servers in {folder()}: scripts/setup installs them")
    return found
