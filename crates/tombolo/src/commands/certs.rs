//! `tombolo certs ...`: the targets of Istio's certificate Makefiles. Each flag is named after the
//! Makefiles' variable, which is read where the flag is not given.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::{Args, Subcommand, ValueEnum};
use tombolo_ca::folder::{Folder, IntermediateSettings, Origin};
use tombolo_ca::offline::{ISTIOD, Settings};
use tombolo_install::root_ca;
use tombolo_tls::key::KeyKind;
use tombolo_tls::spiffe::{SpiffeId, TrustDomain};

use crate::output;

/// Make a root, an intermediate for each cluster, and certificates for virtual machines.
///
/// Files and folders are those of Istio's Makefiles. What is there is not made again.
#[derive(Debug, Args)]
pub struct Certs {
    /// Where the files are.
    #[arg(short, long, global = true, default_value = ".", value_name = "FOLDER")]
    directory: PathBuf,
    #[command(subcommand)]
    command: CertsCommand,
}

#[derive(Debug, Subcommand)]
enum CertsCommand {
    /// Make a self-signed root: root-key.pem and root-cert.pem.
    RootCa(RootFlags),
    /// Get the root of a cluster from its Secret istio-ca-secret, else cacerts.
    FetchRootCa(FetchFlags),
    /// Make the intermediate of a cluster, signed by the root, in the folder NAME.
    Cacerts {
        /// The cluster: the folder's name, and `L` of the subject.
        name: String,
        #[command(flatten)]
        signer: SignerFlags,
    },
    /// Make an intermediate and the certificate of a virtual machine, in the folder NAMESPACE.
    WorkloadCerts {
        /// The namespace of the virtual machine's service account.
        namespace: String,
        #[command(flatten)]
        signer: SignerFlags,
        #[command(flatten)]
        workload: WorkloadFlags,
    },
    /// Remove the root and what it was made from. The folders of clusters stay.
    Clean,
}

#[derive(Debug, Args)]
struct RootFlags {
    /// Days for which the root counts.
    #[arg(long, env = "ROOTCA_DAYS", default_value_t = 3650)]
    rootca_days: u32,
    /// Bits of the root's RSA key.
    #[arg(long, env = "ROOTCA_KEYSZ", default_value = "4096", value_parser = key_size)]
    rootca_keysz: KeyKind,
    /// `O` of the root.
    #[arg(long, env = "ROOTCA_ORG", default_value = "Istio")]
    rootca_org: String,
    /// `CN` of the root.
    #[arg(long, env = "ROOTCA_CN", default_value = "Root CA")]
    rootca_cn: String,
}

#[derive(Debug, Args)]
struct FetchFlags {
    /// The kubeconfig file; by default the one kubectl uses.
    #[arg(short = 'c', long)]
    kubeconfig: Option<PathBuf>,
    /// The kubeconfig's context; by default the current one.
    #[arg(long)]
    context: Option<String>,
    /// The namespace of the control plane.
    #[arg(
        short,
        long,
        alias = "istioNamespace",
        env = "ISTIO_NAMESPACE",
        default_value = "istio-system"
    )]
    istio_namespace: String,
}

#[derive(Debug, Args)]
struct SignerFlags {
    /// Which root signs.
    #[arg(long, value_enum, default_value_t = RootKind::SelfSigned)]
    root: RootKind,
    /// Where a root that is not there yet is fetched from.
    #[command(flatten)]
    fetch: FetchFlags,
    #[command(flatten)]
    rootca: RootFlags,
    /// Days for which the intermediate counts.
    #[arg(long, env = "INTERMEDIATE_DAYS", default_value_t = 3650)]
    intermediate_days: u32,
    /// Bits of the RSA keys of intermediate and workload.
    #[arg(long, env = "INTERMEDIATE_KEYSZ", default_value = "4096", value_parser = key_size)]
    intermediate_keysz: KeyKind,
    /// `O` of intermediate and workload.
    #[arg(long, env = "INTERMEDIATE_ORG", default_value = "Istio")]
    intermediate_org: String,
    /// `CN` of the intermediate.
    #[arg(long, env = "INTERMEDIATE_CN", default_value = "Intermediate CA")]
    intermediate_cn: String,
    /// The DNS name in the intermediate.
    #[arg(long, env = "INTERMEDIATE_SAN_DNS", default_value = ISTIOD)]
    intermediate_san_dns: String,
}

#[derive(Debug, Args)]
struct WorkloadFlags {
    /// Days for which the workload's certificate counts.
    #[arg(long, env = "WORKLOAD_DAYS", default_value_t = 1)]
    workload_days: u32,
    /// `CN` of the workload.
    #[arg(long, env = "WORKLOAD_CN", default_value = "Workload")]
    workload_cn: String,
    /// The virtual machine's service account.
    #[arg(long, env = "SERVICE_ACCOUNT", default_value = "default")]
    service_account: String,
    /// The mesh's trust domain.
    #[arg(long, default_value = "cluster.local")]
    trust_domain: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum RootKind {
    /// root-cert.pem, which is made when it is not there.
    SelfSigned,
    /// k8s-root-cert.pem, which is fetched when it is not there.
    Kubernetes,
}

fn key_size(text: &str) -> Result<KeyKind, String> {
    text.parse()
        .ok()
        .and_then(KeyKind::rsa)
        .ok_or_else(|| format!("RSA keys of `{text}` bits cannot be made; give 2048, 3072 or 4096"))
}

impl RootFlags {
    fn settings(&self) -> Settings {
        Settings {
            key: self.rootca_keysz,
            days: self.rootca_days,
            organization: self.rootca_org.clone(),
            common_name: self.rootca_cn.clone(),
        }
    }
}

impl SignerFlags {
    fn origin(&self) -> Origin {
        match self.root {
            RootKind::SelfSigned => Origin::SelfSigned,
            RootKind::Kubernetes => Origin::Kubernetes,
        }
    }

    fn settings(&self) -> IntermediateSettings {
        let settings = Settings {
            key: self.intermediate_keysz,
            days: self.intermediate_days,
            organization: self.intermediate_org.clone(),
            common_name: self.intermediate_cn.clone(),
        };
        IntermediateSettings { settings, dns_name: self.intermediate_san_dns.clone() }
    }

    /// Takes the root of the cluster if that one is to sign and is not there: as it was fetched
    /// before, or from the cluster.
    fn fetch(&self, folder: &mut Folder) -> anyhow::Result<()> {
        if self.root == RootKind::SelfSigned || folder.has_fetched() {
            return Ok(());
        }
        let context = self.fetch.context()?;
        if !folder.use_fetched(&context)? {
            self.fetch.fetch(folder)?;
            folder.use_fetched(&context)?;
        }
        Ok(())
    }
}

impl FetchFlags {
    fn context(&self) -> anyhow::Result<String> {
        Ok(root_ca::context(self.kubeconfig.as_deref(), self.context.as_deref())?)
    }

    fn fetch(&self, folder: &mut Folder) -> anyhow::Result<()> {
        let (file, context) = (self.kubeconfig.as_deref(), self.context()?);
        let fetched = super::block_on(async {
            Ok(root_ca::fetch(file, &context, &self.istio_namespace).await?)
        })?;
        let root = folder.fetched(&context, &fetched.certificate, &fetched.key)?;
        output::line(format_args!(
            "fetched the root of {context} from Secret/{}/{}: SHA-256 {}",
            self.istio_namespace,
            fetched.secret,
            root.fingerprint()
        ));
        Ok(())
    }
}

impl WorkloadFlags {
    fn settings(&self, signer: &SignerFlags) -> Settings {
        Settings {
            key: signer.intermediate_keysz,
            days: self.workload_days,
            organization: signer.intermediate_org.clone(),
            common_name: self.workload_cn.clone(),
        }
    }

    fn id(&self, namespace: &str) -> anyhow::Result<SpiffeId> {
        let domain = TrustDomain::new(&self.trust_domain)
            .with_context(|| format!("trust domain `{}`", self.trust_domain))?;
        SpiffeId::new(domain, namespace, &self.service_account).with_context(|| {
            format!("service account `{}` in namespace `{namespace}`", self.service_account)
        })
    }
}

impl Certs {
    pub fn run(self) -> anyhow::Result<ExitCode> {
        super::choose_tls_provider();
        let mut folder = Folder::new(&self.directory);
        let outcome = self.command.run(&mut folder);
        // Also after a mistake: what was made stays, and is used the next time.
        for path in folder.made() {
            let path = path.strip_prefix(".").unwrap_or(path);
            output::line(format_args!("generated {}", path.display()));
        }
        outcome?;
        Ok(ExitCode::SUCCESS)
    }
}

impl CertsCommand {
    fn run(self, folder: &mut Folder) -> anyhow::Result<()> {
        match self {
            Self::RootCa(flags) => folder.root(&flags.settings()).map(drop)?,
            Self::FetchRootCa(flags) => flags.fetch(folder)?,
            Self::Cacerts { name, signer } => {
                signer.fetch(folder)?;
                let root = signer.rootca.settings();
                folder.cacerts(signer.origin(), &root, &name, &signer.settings())?;
            }
            Self::WorkloadCerts { namespace, signer, workload } => {
                let (id, settings) = (workload.id(&namespace)?, workload.settings(&signer));
                signer.fetch(folder)?;
                let root = signer.rootca.settings();
                folder.workload(signer.origin(), &root, &id, &signer.settings(), &settings)?;
            }
            Self::Clean => {
                for path in folder.clean()? {
                    let path = path.strip_prefix(".").unwrap_or(&path);
                    output::line(format_args!("removed {}", path.display()));
                }
            }
        }
        Ok(())
    }
}
