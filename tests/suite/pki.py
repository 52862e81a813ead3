"""Certificates and keys as the openssl command makes them, all PEM text."""
import os
import subprocess
import tempfile

EC = ("-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256")


def rsa(bits):
    return ("-algorithm", "RSA", "-pkeyopt", f"rsa_keygen_bits:{bits}")


def openssl(*argv, **files):
    """Its output; an argument @name is a file with the text of that name."""
    with tempfile.TemporaryDirectory() as d:
        for name, text in files.items():
            with open(os.path.join(d, name), "w", encoding="ascii") as f:
                f.write(text)
        argv = [os.path.join(d, a[1:]) if a[:1] == "@" else a for a in argv]
        return subprocess.run(["openssl", *argv], check=True, capture_output=True,
                              text=True).stdout


def key(*options):
    return openssl("genpkey", *(options or EC))


def cert(cn, of, days=300, digest="sha256", ca=False):
    """Self-signed, of the key 'of'."""
    return openssl("req", "-x509", "-key", "@key", "-days", str(days), f"-{digest}", "-subj",
                   f"/C=TW/ST=Taipei/L=Neihu/O=Fieldgate/CN={cn}", "-addext",
                   f"basicConstraints=critical,CA:{'TRUE' if ca else 'FALSE'}", key=of)


def issued(cn, of, ca_cert, ca_key, digest="sha256", days=300):
    """Of the key 'of', signed by the CA."""
    request = openssl("req", "-new", "-key", "@key", "-subj", f"/O=Fieldgate/CN={cn}", key=of)
    return openssl("x509", "-req", "-in", "@request", "-CA", "@ca", "-CAkey", "@cakey", "-days",
                   str(days), f"-{digest}", request=request, ca=ca_cert, cakey=ca_key)
